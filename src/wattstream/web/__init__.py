"""What people read: the API and its documents."""
