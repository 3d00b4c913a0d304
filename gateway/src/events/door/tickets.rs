//! Tickets and cookies: event streams for browsers, whose EventSource can send no header, and without
//! a token in a URL.
//!
//! `POST /events/ticket` gives an authenticated caller a ticket: 256 random bits, good once and for
//! 30 s, for the channels and the filter that it was asked for. `GET /events?ticket=…` opens the stream
//! and sets a cookie ([`super::cookie`]) with which the browser may open this very URL again until the
//! token ends: that is how EventSource reconnects, with `Last-Event-ID`. A used ticket alone is refused,
//! and so is a cookie alone: it counts only beside its ticket, on this path. A request is judged by
//! its ticket as it lies there; only the stream that opens uses it up, after all that could refuse it.
//!
//! Whoever comes so is the subject of the token that asked for the ticket, in everything: rates, open
//! calls, roles, revocation of the subject and of the token's id, the end of the token. Its rights are
//! judged anew each time. Fails with UNAUTHENTICATED where ticket, cookie or token no longer hold, with
//! PERMISSION_DENIED for a page that may not use the cookie, and with UNAVAILABLE while the store is
//! away. Callers by certificate get no ticket: a certificate does not count for what pages ask for.
//!
//! Limits: the channels and the filter of a ticket have 4 KiB at most as they are kept. How many tickets
//! a caller gets stands in [`super::issued`]; how many and how long they and their cookies are kept,
//! in [`super::vault`]: of one subject 256, then the newest take the places of the oldest.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use intellirouter::events::MAX_PATTERNS;
use serde::Deserialize;

use super::pass::{Entry, Pass};
use super::vault::{Key, Kind};
use super::{Door, cookie};
use crate::body::Body;
use crate::events::filter::Wanted;
use crate::events::{EventPlane, access, subscribe_refusal};
use crate::layers::authenticate::Identity;
use crate::layers::cors::Cors;
use crate::reply::Reply;
use crate::revocation::unix_seconds;
use crate::runtime::Runtime;

pub(super) const TICKET_LIFE: Duration = Duration::from_secs(30);
/// How long who comes with a ticket waits for a store that is away. A browser takes a refusal for the
/// last word.
const READY_LIMIT: Duration = Duration::from_secs(2);
/// The longest that a cookie may hold, for tokens that hardly end.
pub(super) const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// The largest channels and filter, as JSON. A cookie keeps them for as long as its token holds.
const MAX_WISH_BYTES: usize = 4 * 1024;
/// Random bytes of a ticket and of a cookie.
const SECRET_BYTES: usize = 32;
/// Those in base64.
const SECRET_TEXT: usize = 43;

/// What a ticket is asked for with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    channels: Vec<String>,
    #[serde(default, rename = "type")]
    types: Vec<String>,
    #[serde(default, rename = "where")]
    conditions: Vec<String>,
}

/// Whether a request wants a stream by a ticket in its URL.
pub(crate) fn is_by_ticket(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET
        && matches!(uri.path(), "/events" | "/events/")
        && pairs(uri).any(|(key, _)| key == "ticket")
}

/// Whether a request by ticket is an EventSource on its way back. What the cookie is worth is not
/// asked: while that can't be known, whoever seems to come back is told when to come again.
pub(crate) fn is_return(cors: &Cors, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(ACCEPT).iter();
    let brings_cookie = |ticket: String| {
        let name = cookie::name(&Key::of(Kind::Ticket, &[&ticket]));
        cookie::find(headers, &name).is_some_and(is_secret)
    };
    kinds.any(|kind| kind == "text/event-stream")
        && origin(cors, headers).is_ok()
        && ticket(uri).is_ok_and(brings_cookie)
}

fn pairs(
    uri: &Uri,
) -> impl Iterator<Item = (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
}

fn secret() -> Result<String, Reply> {
    let mut bytes = [0; SECRET_BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Reply::internal())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn is_secret(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() == SECRET_TEXT && text.bytes().all(known)
}

/// The one ticket of a URL. What is no ticket is refused and not repeated: it may be a token.
fn ticket(uri: &Uri) -> Result<String, Reply> {
    let mut tickets = pairs(uri).filter(|(key, _)| key == "ticket");
    match (tickets.next(), tickets.next()) {
        (Some((_, ticket)), None) if is_secret(&ticket) => Ok(ticket.into_owned()),
        _ => {
            let expected = "expected one ticket of POST /events/ticket; a token belongs in the \
                            authorization header";
            Err(Reply::invalid("ticket", expected))
        }
    }
}

/// Answers `POST /events/ticket`.
pub(in crate::events) async fn issue(
    plane: &EventPlane,
    caller: &Identity,
    wish: &[u8],
) -> Result<Response<Body>, Reply> {
    let wish: Wish = serde_json::from_slice(wish).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let expected = "expected {\"channels\": […], \"type\": […], \"where\": […]}";
        Reply::invalid("body", format!("{expected}; line {line}, column {column}"))
    })?;
    let pass = pass(plane, caller, wish)?;
    let owner = plane.door.issued.owner(caller.issuer(), caller.subject());
    plane.door.issued.count(owner)?;
    let ticket = secret()?;
    let key = Key::of(Kind::Ticket, &[&ticket]);
    let place = (Kind::Ticket, &key);
    plane.door.vault.put(place, &pass, TICKET_LIFE).await?;
    let answer = serde_json::json!({
        "ticket": ticket,
        "url": format!("/events?ticket={ticket}"),
        "expires_in": TICKET_LIFE.as_secs(),
    });
    let mut response = Response::new(Body::full(format!("{answer}\n")));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn pass(plane: &EventPlane, caller: &Identity, wish: Wish) -> Result<Pass, Reply> {
    if !(1..=MAX_PATTERNS).contains(&wish.channels.len()) {
        let expected = format!("expected 1 to {MAX_PATTERNS} channels or patterns");
        return Err(Reply::invalid("channels", expected));
    }
    let mut wanted = Wanted::default();
    for name in &wish.types {
        wanted.add_type(name)?;
    }
    for condition in &wish.conditions {
        wanted.add_where(condition)?;
    }
    bounded(&wish.channels, &wanted)?;
    access::subscribe(
        &plane.config.rules,
        caller,
        wish.channels.iter().map(String::as_str),
    )?;
    let word = caller.word().ok_or_else(|| {
        let message = "a ticket needs a token: a certificate does not count for web pages";
        Reply::denied("needs_token", message)
    })?;
    Ok(Pass {
        word,
        channels: wish.channels,
        wanted,
        origin: None,
    })
}

/// What is kept counts, not what came: blanks and escapes of the body are gone by now.
fn bounded(channels: &[String], wanted: &Wanted) -> Result<(), Reply> {
    let kept = serde_json::to_vec(&(channels, wanted)).map_err(|_| Reply::internal())?;
    if kept.len() > MAX_WISH_BYTES {
        let (limit, found) = (MAX_WISH_BYTES / 1024, kept.len());
        let expected = format!(
            "expected channels, types and conditions of {limit} KiB at most, found {found} bytes"
        );
        return Err(Reply::invalid("body", expected));
    }
    Ok(())
}

/// Who comes with a ticket, or with a used one and its cookie.
pub(crate) async fn enter(
    runtime: &Runtime,
    request: &mut Request<Body>,
    now: SystemTime,
) -> Result<Arc<Identity>, Reply> {
    let headers = request.headers();
    if headers.contains_key(AUTHORIZATION) {
        let expected = "expected either a ticket or an authorization header";
        return Err(Reply::invalid("ticket", expected));
    }
    let origin = origin(&runtime.cors, headers)?;
    let ticket = ticket(request.uri())?;
    // First: who is let in finds a store.
    let ready = runtime.events.log.ready(READY_LIMIT).await;
    ready.map_err(|error| subscribe_refusal(&error))?;
    let entry = runtime.events.door.admit(headers, &ticket, origin);
    let entry = entry.await?;
    let identity = runtime.authenticate.by_word(entry.pass.word.clone(), now);
    let identity = identity.await?;
    request.extensions_mut().insert(entry);
    Ok(identity)
}

impl Door {
    /// Who shows a ticket or a cookie. Uses up nothing: that is for [`Self::redeem`].
    async fn admit(
        &self,
        headers: &HeaderMap,
        ticket: &str,
        origin: Option<String>,
    ) -> Result<Entry, Reply> {
        let unused = Key::of(Kind::Ticket, &[ticket]);
        let name = cookie::name(&unused);
        let foreign = origin.is_some();
        if let Some(value) = cookie::find(headers, &name).filter(|value| is_secret(value)) {
            let key = Key::of(Kind::Session, &[ticket, value]);
            let pass = self.vault.get(Kind::Session, &key).await?;
            let pass = pass.ok_or_else(void)?;
            if pass.origin != origin {
                return Err(wrong_origin());
            }
            return Ok(Entry {
                ticket: None,
                cookies: cookie::set(headers, &name, value, foreign),
                key,
                pass,
            });
        }
        let pass = self.vault.get(Kind::Ticket, &unused).await?;
        let mut pass = pass.ok_or_else(void)?;
        pass.origin = origin;
        let value = secret()?;
        Ok(Entry {
            ticket: Some(unused),
            key: Key::of(Kind::Session, &[ticket, &value]),
            cookies: cookie::set(headers, &name, &value, foreign),
            pass,
        })
    }

    /// Uses up the ticket, and keeps what its cookie stands for. The last that can refuse a stream:
    /// of several who show one ticket at once, all but one are refused here.
    pub(in crate::events) async fn redeem(
        &self,
        entry: &Entry,
        now: SystemTime,
    ) -> Result<(), Reply> {
        let Some(ticket) = &entry.ticket else {
            return Ok(());
        };
        let life = life(&entry.pass, now)?;
        let exchange = self.vault.exchange(ticket, &entry.key, &entry.pass, life);
        exchange.await?.then_some(()).ok_or_else(void)
    }

    /// Keeps what a cookie stands for until its token ends.
    pub(super) async fn keep(&self, key: &Key, pass: &Pass, now: SystemTime) -> Result<(), Reply> {
        let life = life(pass, now)?;
        self.vault.put((Kind::Session, key), pass, life).await
    }
}

/// How long what a cookie stands for is kept.
fn life(pass: &Pass, now: SystemTime) -> Result<Duration, Reply> {
    let left = pass.word.expires.saturating_sub(unix_seconds(now));
    let life = Duration::from_secs(left).min(LONGEST);
    if life.is_zero() {
        Err(void())
    } else {
        Ok(life)
    }
}

fn void() -> Reply {
    Reply::unauthenticated(
        "bad_ticket",
        "the ticket was used, is too old or unknown; ask for a new one",
    )
}

fn wrong_origin() -> Reply {
    let message = "pages of this origin may not open streams with tickets; see [cors] origins";
    Reply::denied("wrong_origin", message)
}

/// The origin of the page that asks, `None` for the gateway's own pages and for what is no page.
/// Browsers send a cookie whoever's page asks; these headers no page can choose (Fetch Metadata).
fn origin(cors: &Cors, headers: &HeaderMap) -> Result<Option<String>, Reply> {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site == Some(b"same-origin") {
        return Ok(None);
    }
    match (headers.get(ORIGIN), site) {
        (None, None) => Ok(None),
        (Some(_), _) => {
            let allowed = cors
                .allowed(headers)
                .and_then(|origin| origin.to_str().ok());
            allowed
                .map(|origin| Some(origin.to_owned()))
                .ok_or_else(wrong_origin)
        }
        (None, Some(_)) => Err(wrong_origin()),
    }
}

#[cfg(test)]
mod tests;
