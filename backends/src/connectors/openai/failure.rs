//! What an endpoint's refusal means, and what of its words may be passed on.
//!
//! Owns the mapping from HTTP status to [`ConnectorError`], and the cleaning of texts: no control
//! and no format characters, no key, at most 512 bytes. At most 16 KiB of a refusal are read.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::response::Parts;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::super::{ApiKey, ConnectorError};

pub(super) const MAX_BODY_BYTES: usize = 16 * 1024;
const MAX_TEXT_BYTES: usize = 512;
/// Nobody means more, and later sums of times stay in range.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes the key that a call was made with out of what comes back.
#[derive(Debug)]
pub(super) struct Censor(ApiKey);

impl Censor {
    pub(super) fn new(key: ApiKey) -> Self {
        Self(key)
    }

    /// A text of the endpoint, fit to be shown.
    pub(super) fn text(&self, text: &str) -> String {
        // What can't be seen goes first, as it could hide the key; the cut is last, as it could
        // leave a part of it.
        let text = visible(text);
        if self.0.is_empty() {
            return cut(&text);
        }
        cut(&text.replace(self.0.expose(), "[key]"))
    }
}

/// A text that no key can be in, fit to be shown.
pub(super) fn plain(text: &str) -> String {
    cut(&visible(text))
}

fn visible(text: &str) -> String {
    let hidden = |c: &char| c.is_control() || is_format(*c);
    text.chars().filter(|c| !hidden(c)).collect()
}

/// Whether a character has no form of its own but changes how others are shown: the general
/// categories Cf, Zl and Zp of Unicode 17. In a log it could turn a line around or hide a part.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0001}'
            | '\u{e0020}'..='\u{e007f}'
    )
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

/// The error for an answer whose status is not 2xx.
pub(super) fn of_status(head: &Parts, body: &[u8], censor: &Censor) -> ConnectorError {
    let message = match serde_json::from_slice::<Value>(body) {
        Ok(json) => message_in(&json).map(|text| censor.text(text)),
        Err(_) => Some(censor.text(&String::from_utf8_lossy(body))),
    };
    let retry_after = retry_after(&head.headers, OffsetDateTime::now_utc());
    of_code(
        head.status.as_u16(),
        message.unwrap_or_default(),
        retry_after,
    )
}

/// The error for an answer that begins well and then reports a failure: the report's own code
/// counts, if it is an HTTP status.
pub(super) fn of_report(report: &RawValue, censor: &Censor) -> ConnectorError {
    // One that is larger is no error message.
    let small = Some(report.get()).filter(|json| json.len() <= MAX_BODY_BYTES);
    let report: Value = small
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let message = message_in(&report).map(|text| censor.text(text));
    let message = message.unwrap_or_default();
    let code = report.get("code").and_then(Value::as_u64);
    match code.and_then(|code| u16::try_from(code).ok()) {
        Some(code @ 400..=599) => of_code(code, message, None),
        // What the endpoint answered with before it failed.
        _ => ConnectorError::Failed {
            status: 200,
            message,
        },
    }
}

fn of_code(status: u16, message: String, retry_after: Option<Duration>) -> ConnectorError {
    match status {
        429 => ConnectorError::Limited(retry_after),
        400..=499 => ConnectorError::Refused { status, message },
        500.. => ConnectorError::Failed { status, message },
        _ => ConnectorError::Unusable(format!("expected status 200, got {status}")),
    }
}

/// `{"error": {"message": ..}}` is the API's own form; the others are common in its imitations.
fn message_in(json: &Value) -> Option<&str> {
    let error = json.get("error").unwrap_or(json);
    let places = [
        error.get("message"),
        error.get("detail"),
        json.get("message"),
        Some(error),
    ];
    places.into_iter().flatten().find_map(Value::as_str)
}

/// Seconds, or a date in the one form that senders may use (RFC 9110, 5.6.7).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER).map(HeaderValue::to_str)?.ok()?;
    let wait = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
            // A date that is past means: now.
            Duration::try_from(date - now).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    fn censor() -> Censor {
        Censor::new(ApiKey::new("sk-secret".to_owned()))
    }

    fn wait(value: &'static str) -> Option<Duration> {
        let now = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        retry_after(&headers, now)
    }

    #[test]
    fn a_key_does_not_come_back_however_it_is_hidden() {
        let text = censor().text("no sk-secret, sk-\u{7}sec\nret, sk-secretsk-secret");
        assert_eq!(text, "no [key], [key], [key][key]");
    }

    #[test]
    fn what_turns_a_line_around_or_hides_a_part_of_it_is_taken_out() {
        let text =
            plain("a\u{202e}b\u{2066}c\u{200b}d\u{2028}e\u{feff}f\u{e0041}g \u{e9}\u{1f600}");
        assert_eq!(text, "abcdefg \u{e9}\u{1f600}");
        let text = censor().text("sk-\u{200d}secret");
        assert_eq!(text, "[key]");
    }

    #[test]
    fn a_key_at_the_cut_leaves_no_part_of_it() {
        let text = format!("{}sk-secret", "x".repeat(MAX_TEXT_BYTES - 4));
        assert!(!censor().text(&text).contains("sk-"));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = plain(&"\u{e9}".repeat(300).replacen('\u{e9}', "e", 1));
        assert_eq!(text.len(), 511);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        let date = wait("Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(date, Some(Duration::from_secs(60)));
    }

    #[test]
    fn retry_after_is_never_negative_nor_longer_than_a_day() {
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("18446744073709551615"), Some(MAX_RETRY_AFTER));
    }

    #[test]
    fn retry_after_that_says_nothing_is_left_out() {
        for value in ["", "-1", "soon", "1.5"] {
            assert_eq!(wait(value), None, "{value}");
        }
    }

    #[test]
    fn the_message_is_found_in_every_common_form() {
        for json in [
            r#"{"error": {"message": "why"}}"#,
            r#"{"error": "why"}"#,
            r#"{"message": "why"}"#,
            r#"{"detail": "why"}"#,
            r#""why""#,
        ] {
            let json: Value = serde_json::from_str(json).unwrap();
            assert_eq!(message_in(&json), Some("why"), "{json}");
        }
    }

    #[test]
    fn a_report_with_an_http_status_counts_as_this_status() {
        let report = |code: Value| {
            let json = serde_json::json!({"code": code});
            of_report(&to_raw_value(&json).unwrap(), &censor())
        };
        assert_eq!(report(429.into()), ConnectorError::Limited(None));
        let status = |error| match error {
            ConnectorError::Failed { status, .. } | ConnectorError::Refused { status, .. } => {
                status
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(status(report(502.into())), 502);
        assert_eq!(status(report(404.into())), 404);
        assert_eq!(status(report(Value::Null)), 200);
        assert_eq!(status(report("server_error".into())), 200);
        assert_eq!(status(report(99_999_999.into())), 200);
    }
}
