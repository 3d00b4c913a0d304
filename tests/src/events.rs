//! A gateway with events, and clients that follow and publish them.

use serde_json::Value;

use crate::curl::{Answer, request, stream};
use crate::redis::Redis;
use crate::service::python;
use crate::{Config, Gateway, Process, Site, Token};

/// A channel that the role `tester` may read and publish.
pub const CHANNEL: &str = "intellirouter:chain_engine:router_core:chain_execution_completed";
/// What `tester` may read.
pub const PATTERN: &str = "intellirouter:chain_engine:*";
/// An event. Its spacing and its letters must arrive as they are.
pub const PAYLOAD: &str = r#"{"execution_id":"e1",  "output": "grüß ☺ \n", "timestamp":"2026-01-01T00:00:00Z","metadata":{}}"#;

/// A gateway with events, and what clients of it need.
pub struct Events {
    /// Its files.
    pub site: Site,
    /// The gateway.
    pub gateway: Gateway,
    /// The `authorization` header of a `tester`.
    pub header: String,
}

impl Events {
    /// On the embedded store, with further keys of `[events]`.
    pub fn new(keys: &str) -> Self {
        Self::with(&Config::default().events(keys))
    }

    /// On a Redis.
    pub fn on(redis: &Redis) -> Self {
        Self::new(&format!("store = \"{}\"", redis.url()))
    }

    /// With a configuration of its own.
    pub fn with(config: &Config) -> Self {
        let site = Site::new();
        let gateway = site.gateway(config);
        let header = format!("authorization: Bearer {}", site.token(&["tester"]));
        Self {
            site,
            gateway,
            header,
        }
    }

    /// The path that follows a channel or pattern.
    pub fn path(channel: &str) -> String {
        format!("/events?channel={channel}")
    }

    /// A stream by curl, open and subscribed when this returns.
    pub fn curl(&self, accept: &str) -> Process {
        self.curl_with(accept, &self.header, &Self::path(PATTERN))
    }

    /// As [`Events::curl`], for any caller and path.
    pub fn curl_with(&self, accept: &str, header: &str, path: &str) -> Process {
        let accept = format!("accept: {accept}");
        let curl = stream(&self.gateway, path, &["-H", header, "-H", &accept]);
        curl.line("ir.open", |line| line.contains("ir.open").then_some(()));
        curl
    }

    /// A stream of server-sent events, open when this returns.
    pub fn sse(&self) -> Process {
        self.curl("text/event-stream")
    }

    /// Starts `events_client.py`.
    pub fn python(&self, args: &[&str]) -> Process {
        self.python_as(&self.header, args)
    }

    /// As [`Events::python`], for any caller.
    pub fn python_as(&self, header: &str, args: &[&str]) -> Process {
        let mut command = python("events_client.py");
        command
            .arg("--target")
            .arg(self.gateway.target())
            .arg("--ca")
            .arg(&self.gateway.ca);
        command
            .arg("--token")
            .arg(header.rsplit(' ').next().unwrap())
            .args(args);
        Process::spawn("events_client", &command)
    }

    /// A stream by grpcio, open and subscribed when this returns.
    pub fn grpc(&self) -> Process {
        let client = self.python(&["subscribe", PATTERN]);
        client.line("opening", |line| {
            (json(line)["kind"] == "opened").then_some(())
        });
        client
    }

    /// A request by curl, to its end.
    pub fn get(&self, path: &str, more: &[&str]) -> Answer {
        request(
            &self.gateway,
            path,
            &[&["-H", &self.header], more].concat(),
            None,
        )
    }

    /// The `authorization` header of a token that the gateways of this site take.
    pub fn bearer(&self, token: &Token) -> String {
        let token = token.hs256(self.site.secret().as_bytes());
        format!("authorization: Bearer {token}")
    }

    /// Another gateway of the same site, with the same configuration.
    pub fn sibling(&self, config: &Config) -> Gateway {
        self.site.gateway(config)
    }

    /// Publishes by POST.
    pub fn post(&self, channel: &str, payload: &str) -> Answer {
        let args = ["-H", &self.header, "-H", "content-type: application/json"];
        request(
            &self.gateway,
            &format!("/events/{channel}"),
            &args,
            Some(payload.as_bytes()),
        )
    }

    /// Publishes by POST on [`CHANNEL`], which must succeed.
    pub fn publish(&self, payload: &str) {
        let answer = self.post(CHANNEL, payload);
        assert_eq!(answer.status, 202, "{}", answer.text());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["channel"], CHANNEL);
    }
}

/// A line as JSON; null when it is none.
pub fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or(Value::Null)
}

/// The SSE frame that holds a line, as its lines, once it is complete.
pub fn sse_frame(curl: &Process, wanted: &str) -> Vec<String> {
    let mut frame: Vec<String> = Vec::new();
    curl.line(wanted, |line| {
        if !line.is_empty() {
            frame.push(line.to_owned());
            return None;
        }
        let whole = std::mem::take(&mut frame);
        whole.iter().any(|line| line == wanted).then_some(whole)
    })
}

/// The value of a field of an SSE frame.
pub fn field<'f>(frame: &'f [String], name: &str) -> &'f str {
    let prefix = format!("{name}: ");
    frame
        .iter()
        .find_map(|line| line.strip_prefix(&prefix))
        .unwrap_or_else(|| panic!("no {name} in {frame:?}"))
}
