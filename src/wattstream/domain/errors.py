"""Every error Wattstream raises, sorted by what the caller does next."""


class WattstreamError(Exception):
    """The root. `message` is for people: what, which, the value, what is allowed."""

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# ── Mend the request, then send it again ─────────────────────────────────────────────────────


class RequestError(WattstreamError):
    """The request can never succeed as it is.

    Attributes:
        code: Stable name of the broken rule, snake_case.
        field: The key of the request that breaks it, or None.
    """

    code = "bad_request"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.field = field


class MalformedError(RequestError):
    """The body or query cannot be parsed."""

    code = "malformed_json"


class ReadingError(RequestError):
    """A reading, or a setting of a device, breaks a rule."""

    code = "invalid_reading"


class NotFoundError(RequestError):
    """Nothing has that name."""

    code = "not_found"


class UnauthorizedError(RequestError):
    """The request needs a key that is valid."""

    code = "key_missing"


class ForbiddenError(RequestError):
    """The key does not let its holder do that, or not with that device."""

    code = "forbidden"


class ConflictError(RequestError):
    """What is already kept contradicts the request."""

    code = "conflict"


class TooLargeError(RequestError):
    """The body is over its limit."""

    code = "body_too_large"


class NotAcceptableError(RequestError):
    """The endpoint has no answer in a form that the client takes."""

    code = "not_acceptable"


class UnsupportedError(RequestError):
    """The content type or encoding is not one that the endpoint reads."""

    code = "unsupported_media_type"


# ── Try again later ──────────────────────────────────────────────────────────────────────────


class RetryLaterError(WattstreamError):
    """Nothing was acknowledged; the same request may be sent again.

    Attributes:
        retry_after_s: Seconds after which it is worth trying.
    """

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(RetryLaterError):
    """Readings arrive faster than they can be committed."""

    code = "queue_full"


class RateLimitedError(RetryLaterError):
    """The key's requests come faster than it allows."""

    code = "rate_limited"


class StoreUnavailableError(RetryLaterError):
    """The database does not answer, or refused the transaction."""

    code = "database_unavailable"


# ── Call an operator ─────────────────────────────────────────────────────────────────────────


class OperatorError(WattstreamError):
    """A person must change something; the message says what to do."""

    code = "operator"


class SettingsError(OperatorError):
    """One or more settings are wrong; the message names all of them."""


class EmbeddedServerError(OperatorError):
    """The embedded PostgreSQL cannot be set up, started or stopped."""


class SchemaError(OperatorError):
    """The database's schema does not fit this version of Wattstream."""
