import "./format.js";

if (document.getElementById("error").dataset.status === "503") {
  setTimeout(() => location.reload(), 3000);
}
