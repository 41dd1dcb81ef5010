//! `/weights`: whose weights serve, and the one thing that can be brought about here: others in their place.
//!
//! A browser on this machine may be sent here by a foreign page, with a POST whose answer the page never sees and does not
//! need. So an order must be `application/json`, which a browser does not send elsewhere without asking first (and nobody
//! answers that), and whatever names a page as its origin is refused.

use std::path::Path;

use serde_json::{Value, json};

use super::Board;
use super::http::{Order, Response};
use crate::schedule::ReplaceError;

const WANTED: &str =
    "send {\"path\": \"/where/the/weights/lie.safetensors\", \"version\": \"their name\"} as application/json";

/// GET.
pub(super) fn status(board: &Board) -> Response {
    match board.service() {
        Some(service) => Response::json(200, &service.weights().to_json()),
        None => Response::line(503, "starting"),
    }
}

/// POST.
pub(super) fn replace(board: &Board, allowed: bool, order: &Order) -> Response {
    if !allowed {
        return Response::line(403, "weights are not replaced here; start the server with --admin-weights to allow it");
    }
    if order.from_page {
        return Response::line(403, "a page in a browser does not replace weights");
    }
    if order.content_type != "application/json" {
        return Response::line(415, WANTED);
    }
    let Some((path, version)) = read(&order.body) else { return Response::line(400, WANTED) };
    let Some(service) = board.service() else { return Response::line(503, "starting") };
    match service.replace_weights(Path::new(&path), &version) {
        Ok(number) => Response::json(202, &json!({"policy": {"number": number, "version": version}})),
        Err(error) => {
            let status = match error {
                ReplaceError::Busy { .. } => 409,
                ReplaceError::Asked(_) => 400,
                ReplaceError::Unavailable(_) => 503,
            };
            Response::line(status, &error.to_string())
        }
    }
}

/// Path and version, and nothing else.
fn read(body: &[u8]) -> Option<(String, String)> {
    let Ok(Value::Object(mut told)) = serde_json::from_slice(body) else { return None };
    let (path, version) = (told.remove("path")?, told.remove("version")?);
    match (path, version) {
        (Value::String(path), Value::String(version)) if told.is_empty() => Some((path, version)),
        _ => None,
    }
}
