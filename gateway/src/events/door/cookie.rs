//! The cookie with which a browser's EventSource comes back by itself (RFC 6265bis).
//!
//! Each ticket has a cookie of its own, so that the streams of one page don't take each other's. It
//! is for HTTPS and `/events` alone and out of scripts' reach. For pages of the gateway's own site it
//! is `SameSite=Strict`; for those of an origin in `[cors]` on another site it must be
//! `SameSite=None`, and is `Partitioned`, so that it stands for that site's pages only and is there
//! where browsers keep no other cookies of third parties.
//!
//! Limits: a browser keeps it for a day, unless what it stands for ends before; of more than 32 the
//! oldest are taken back.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::vault::Key;

const PREFIX: &str = "__Secure-ir_events_";
const LIFE_SECONDS: u32 = 86_400;
const MOST: usize = 32;

/// The name for a ticket: the beginning of its hash.
pub(super) fn name(ticket: &Key) -> String {
    let mut name = PREFIX.to_owned();
    name.push_str(&ticket.hex()[..16]);
    name
}

/// The value of the cookie `name`.
pub(super) fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut cookies = all(headers);
    cookies.find_map(|(found, value)| (found == name).then_some(value))
}

/// What sets a cookie, and takes back those of the browser that are too many.
pub(super) fn set(headers: &HeaderMap, name: &str, value: &str, foreign: bool) -> Vec<HeaderValue> {
    let same_site = if foreign {
        "None; Partitioned"
    } else {
        "Strict"
    };
    let line = |name: &str, value: &str, age: u32| {
        format!(
            "{name}={value}; Path=/events; Max-Age={age}; Secure; HttpOnly; SameSite={same_site}"
        )
    };
    // Browsers send the oldest first.
    let known = all(headers).filter(|(found, _)| found.starts_with(PREFIX) && *found != name);
    let known: Vec<&str> = known.map(|(found, _)| found).collect();
    let spare = known.len().saturating_sub(MOST - 1);
    let gone = known[..spare].iter().map(|found| line(found, "", 0));
    let mut lines: Vec<HeaderValue> = gone
        .chain([line(name, value, LIFE_SECONDS)])
        .filter_map(|line| HeaderValue::try_from(line).ok())
        .collect();
    lines.iter_mut().for_each(|line| line.set_sensitive(true));
    lines
}

fn all(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';'));
    pairs.filter_map(|pair| pair.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cookies: &[String]) -> HeaderMap {
        let line = cookies.join("; ");
        HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(line).unwrap())])
    }

    #[test]
    fn a_cookie_is_for_events_over_https_alone_and_no_script_reads_it() {
        let set = |foreign| set(&HeaderMap::new(), "__Secure-ir_events_a", "v", foreign);
        let own = "__Secure-ir_events_a=v; Path=/events; Max-Age=86400; Secure; HttpOnly; \
                   SameSite=Strict";
        assert_eq!(set(false), [own]);
        let foreign = own.replace("Strict", "None; Partitioned");
        assert_eq!(set(true), [foreign.as_str()]);
        assert!(set(true).iter().all(HeaderValue::is_sensitive));
    }

    #[test]
    fn it_is_found_by_its_whole_name_among_others() {
        let headers = with(&["a=1".into(), "ir=2".into(), " b=3=4".into()]);
        assert_eq!(find(&headers, "ir"), Some("2"));
        assert_eq!(find(&headers, "b"), Some("3=4"));
        assert_eq!(find(&headers, "r"), None);
    }

    #[test]
    fn of_too_many_the_oldest_are_taken_back_and_others_cookies_never() {
        let mut known = vec!["session=1".to_owned()];
        known.extend((0..MOST).map(|n| format!("{PREFIX}{n}=x")));
        let lines = set(&with(&known), "__Secure-ir_events_new", "v", false);
        assert_eq!(lines.len(), 2);
        let gone = lines[0].to_str().unwrap();
        assert!(gone.starts_with("__Secure-ir_events_0=; ") && gone.contains("Max-Age=0"));
        // Who comes back with one that it has gets it again.
        let lines = set(&with(&known), "__Secure-ir_events_31", "v", false);
        assert_eq!(lines.len(), 1);
    }
}
