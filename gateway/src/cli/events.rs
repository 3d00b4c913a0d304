//! `intellirouter events tail|publish`: a client of `EventService`.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use intellirouter_proto::intellirouter::events::v1::event_service_client::EventServiceClient;
use intellirouter_proto::intellirouter::events::v1::subscribe_response::Message;
use intellirouter_proto::intellirouter::events::v1::{Condition, PublishRequest, SubscribeRequest};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::AsciiMetadataValue;

use super::{Failure, control_runtime, token};

#[derive(clap::Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
    /// The gateway
    #[arg(long, global = true, default_value = "https://localhost:8443")]
    url: String,
    /// The folder with ca.crt, and with jwt.secret for a token of its own
    #[arg(long, global = true, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print events as they come, one JSON object a line
    Tail {
        /// A channel or pattern; may be repeated
        #[arg(long = "channel", required = true)]
        channels: Vec<String>,
        /// Only events of this type; may be repeated
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only events whose payload has this value in a top-level field; may be repeated
        #[arg(long = "where", value_name = "FIELD:VALUE", value_parser = condition)]
        conditions: Vec<Condition>,
        /// Start after this event
        #[arg(long)]
        last_event_id: Option<String>,
    },
    /// Publish one event
    Publish {
        /// The channel
        #[arg(long)]
        channel: String,
        /// The payload, one JSON object; read from stdin when absent
        payload: Option<String>,
        /// A repeat with the same key publishes nothing
        #[arg(long)]
        idempotency_key: Option<String>,
    },
}

/// The environment variable with a token to use instead of an own one.
const TOKEN_ENV: &str = "INTELLIROUTER_TOKEN";

impl Events {
    pub(super) fn run(self) -> Result<(), Failure> {
        control_runtime()?.block_on(self.execute())
    }

    async fn execute(self) -> Result<(), Failure> {
        let token = match std::env::var(TOKEN_ENV) {
            Ok(token) => token,
            Err(_) => token::mint(
                &self.certs,
                "intellirouter-cli",
                vec!["admin".into()],
                Duration::from_secs(3600),
                ("intellirouter".into(), "intellirouter-services".into()),
            )?,
        };
        let mut bearer = AsciiMetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Failure::usage(format!("{TOKEN_ENV}: expected a token")))?;
        bearer.set_sensitive(true);
        let client = connect(&self.url, &self.certs.join("ca.crt")).await?;
        match self.command {
            Command::Tail {
                channels,
                types,
                conditions,
                last_event_id,
            } => {
                let request = SubscribeRequest {
                    channels,
                    last_event_id: last_event_id.unwrap_or_default(),
                    types,
                    conditions,
                };
                tail(client, bearer, request).await
            }
            Command::Publish {
                channel,
                payload,
                idempotency_key,
            } => {
                let payload = match payload {
                    Some(payload) => payload.into_bytes(),
                    None => stdin()?,
                };
                let request = PublishRequest {
                    channel,
                    payload: payload.into(),
                    idempotency_key: idempotency_key.unwrap_or_default(),
                };
                publish(client, bearer, request).await
            }
        }
    }
}

type Client = EventServiceClient<tonic::transport::Channel>;

fn condition(text: &str) -> Result<Condition, String> {
    let parts = text.split_once(':');
    let (field, value) = parts.ok_or_else(|| "expected FIELD:VALUE".to_owned())?;
    Ok(Condition {
        field: field.to_owned(),
        value: value.to_owned(),
    })
}

fn with_token<T>(message: T, bearer: AsciiMetadataValue) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn refused(status: tonic::Status) -> Failure {
    Failure::other(format!("{:?}: {}", status.code(), status.message()))
}

async fn publish(
    mut client: Client,
    bearer: AsciiMetadataValue,
    request: PublishRequest,
) -> Result<(), Failure> {
    let published = client
        .publish(with_token(request, bearer))
        .await
        .map_err(refused)?;
    super::say(&format!(
        "{}",
        serde_json::json!({ "id": published.into_inner().id })
    ));
    Ok(())
}

async fn tail(
    mut client: Client,
    bearer: AsciiMetadataValue,
    request: SubscribeRequest,
) -> Result<(), Failure> {
    let mut stream = client
        .subscribe(with_token(request, bearer))
        .await
        .map_err(refused)?
        .into_inner();
    let mut out = std::io::stdout();
    while let Some(message) = stream.message().await.map_err(refused)? {
        let Some(message) = message.message else {
            continue;
        };
        let written = writeln!(out, "{}", line(message)).and_then(|()| out.flush());
        if written.is_err() {
            // The reader of the pipe has gone.
            return Ok(());
        }
    }
    Ok(())
}

fn line(message: Message) -> serde_json::Value {
    use serde_json::json;
    match message {
        Message::Opened(open) => json!({ "event": "ir.open", "id": open.id }),
        Message::Position(mark) => json!({ "event": "ir.position", "id": mark.id }),
        Message::Gap(gap) => json!({
            "event": "ir.gap",
            "from": gap.from,
            "to": gap.to,
            "reason": gap.reason().as_str_name(),
        }),
        Message::Error(error) => {
            json!({ "event": "ir.error", "reason": error.reason, "message": error.message })
        }
        Message::Expiring(soon) => json!({
            "event": "ir.expiring",
            "stream": soon.stream_id,
            "at": soon.at.map(|at| at.seconds),
        }),
        Message::Event(event) => {
            let data: serde_json::Value = serde_json::from_slice(&event.payload)
                .unwrap_or_else(|_| String::from_utf8_lossy(&event.payload).into());
            json!({
                "id": event.id,
                "event": event.event_type,
                "channel": event.channel,
                "data": data,
            })
        }
    }
}

fn stdin() -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    std::io::stdin()
        .read_to_end(&mut payload)
        .map_err(Failure::other)?;
    Ok(payload)
}

/// Connects over TLS, trusting the authorities in `ca` alone.
async fn connect(url: &str, ca: &std::path::Path) -> Result<Client, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::other(format!("{url}: {error}"));
    let parsed = url::Url::parse(url)
        .ok()
        .filter(|parsed| parsed.scheme() == "https" && parsed.has_host())
        .ok_or_else(|| Failure::usage(format!("{url}: expected https://HOST:PORT")))?;
    let host = parsed
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let port = parsed.port_or_known_default().unwrap_or(443);
    let config = intellirouter::security::client_config(Some(ca), None, &[b"h2"])
        .map_err(|error| failed(&error))?;
    let tls = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
    let connector = tower::service_fn(move |_| {
        let (tls, name, host) = (tls.clone(), name.clone(), host.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .map_err(|error| failed(&error))?
        .connect_timeout(Duration::from_secs(5))
        .connect_with_connector(connector)
        .await
        .map_err(|error| match std::error::Error::source(&error) {
            Some(source) => failed(&source),
            None => failed(&error),
        })?;
    Ok(EventServiceClient::new(channel))
}
