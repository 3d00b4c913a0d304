//! The connector `openai`: calls an endpoint that speaks the OpenAI HTTP API.
//!
//! `endpoint_url` is the base, such as `https://api.example.com/v1`; a query in it is kept. Of the
//! connector's parameters, `model` is the model's name at the endpoint (else: its id in the
//! registry), and `api_key_name` names a key of the operator's, used if the model has none of its
//! own. Owns the order of these, and the sequence of one call; the connections, the terms of the API
//! and the errors are in the modules below. HTTP/1.1; no redirect is followed and no proxy is
//! asked, so a request and its key go to the URL's host alone.
//!
//! It fails with every kind of [`ConnectorError`].

mod answer;
mod client;
mod events;
mod failure;
mod few;
mod parts;
mod request;

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, ChatCompletionResponse, ConnectorConfig,
};

use self::client::Client;
use self::failure::Censor;
use super::deadline::Deadline;
use super::keys::Keys;
use super::origin::Origin;
use super::{ApiKey, ConnectorError, ConnectorSettings, Endpoint, Parts};

pub(super) use self::request::body as request_body;

const ORGANIZATION: HeaderName = HeaderName::from_static("openai-organization");
const AGENT: &str = concat!("intellirouter/", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";

/// How much of an answer is taken, and how slowly it may come.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    first_byte: Duration,
    idle: Duration,
    answer_bytes: usize,
    event_bytes: usize,
}

#[derive(Debug)]
pub(super) struct OpenAi {
    client: Client,
    keys: Keys,
    bounds: Bounds,
}

impl OpenAi {
    pub(super) fn new(settings: ConnectorSettings) -> Result<Self, ConnectorError> {
        Ok(Self {
            client: Client::new(&settings)?,
            bounds: Bounds {
                first_byte: settings.first_byte_timeout,
                idle: settings.idle_timeout,
                answer_bytes: settings.answer_bytes,
                event_bytes: settings.event_bytes,
            },
            keys: Keys::new(settings.keys)?,
        })
    }

    pub(super) fn check_settings(&self, config: &ConnectorConfig) -> Result<(), ConnectorError> {
        let target = Target::of(config)?;
        organization(config)?;
        match config.parameters.get("api_key_name") {
            Some(name) => self.keys.check(name, &target.origin),
            None => Ok(()),
        }
    }

    pub(super) async fn complete(
        &self,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        deadline: Deadline,
    ) -> Result<ChatCompletionResponse, ConnectorError> {
        let body = request_body(model_name(endpoint), request, Some(false))?;
        let call = self.call(endpoint, deadline).await?;
        let request = call.post("/chat/completions", JSON, body)?;
        let response = deadline.run(self.client.send(request)).await??;
        let response = self.accept(response, deadline, &call.censor).await?;
        let body = self.read(response.into_body(), deadline).await?;
        answer::whole(&body, &call.censor)
    }

    pub(super) async fn stream(
        &self,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        deadline: Deadline,
    ) -> Result<Parts, ConnectorError> {
        let body = request_body(model_name(endpoint), request, Some(true))?;
        let call = self.call(endpoint, deadline).await?;
        let request = call.post("/chat/completions", EVENT_STREAM, body)?;
        let sent = self.client.send(request);
        let response = deadline.within(self.bounds.first_byte, sent).await??;
        let response = self.accept(response, deadline, &call.censor).await?;
        if !is_event_stream(response.headers()) {
            return Err(ConnectorError::Unusable(format!(
                "a stream was asked for, expected the content type {EVENT_STREAM}"
            )));
        }
        let body = response.into_body();
        Ok(parts::parts(body, self.bounds, deadline, call.censor))
    }

    pub(super) async fn check(
        &self,
        endpoint: &Endpoint,
        deadline: Deadline,
    ) -> Result<(), ConnectorError> {
        let call = self.call(endpoint, deadline).await?;
        let request = call.get("/models")?;
        let sent = self.client.send(request);
        let response = deadline.within(self.bounds.first_byte, sent).await??;
        match response.status().as_u16() {
            404 | 405 => Ok(()),
            // The list itself is of no interest, and may be long.
            _ => self
                .accept(response, deadline, &call.censor)
                .await
                .map(drop),
        }
    }

    async fn call(&self, endpoint: &Endpoint, deadline: Deadline) -> Result<Call, ConnectorError> {
        let target = Target::of(&endpoint.config)?;
        let key = deadline.run(self.key(endpoint, &target.origin)).await??;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(organization) = organization(&endpoint.config)? {
            headers.insert(ORGANIZATION, organization);
        }
        if !key.is_empty() {
            headers.insert(AUTHORIZATION, authorization(&key)?);
        }
        Ok(Call {
            target,
            headers,
            censor: Censor::new(key),
        })
    }

    async fn key(&self, endpoint: &Endpoint, origin: &Origin) -> Result<ApiKey, ConnectorError> {
        if !endpoint.api_key.is_empty() {
            return Ok(endpoint.api_key.clone());
        }
        match endpoint.config.parameters.get("api_key_name") {
            Some(name) => self.keys.read(name, origin).await,
            None => Ok(ApiKey::default()),
        }
    }

    /// Passes an answer with a good status on; makes an error of any other.
    async fn accept(
        &self,
        response: Response<Incoming>,
        deadline: Deadline,
        censor: &Censor,
    ) -> Result<Response<Incoming>, ConnectorError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let bounds = (failure::MAX_BODY_BYTES, self.bounds.idle);
        let text = client::read_start(body, bounds, deadline).await;
        Err(failure::of_status(&head, &text, censor))
    }

    async fn read(&self, body: Incoming, deadline: Deadline) -> Result<Vec<u8>, ConnectorError> {
        client::read_all(body, (self.bounds.answer_bytes, self.bounds.idle), deadline).await
    }
}

/// What all requests of one call have in common.
struct Call {
    target: Target,
    headers: HeaderMap,
    censor: Censor,
}

impl Call {
    fn get(&self, path: &str) -> Result<Request<Full<Bytes>>, ConnectorError> {
        self.request(Method::GET, path, JSON, Bytes::new())
    }

    fn post(
        &self,
        path: &str,
        accept: &'static str,
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, ConnectorError> {
        let mut request = self.request(Method::POST, path, accept, body.into())?;
        let json = HeaderValue::from_static(JSON);
        request.headers_mut().insert(CONTENT_TYPE, json);
        Ok(request)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ConnectorError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.join(path)?;
        *request.headers_mut() = self.headers.clone();
        let accept = HeaderValue::from_static(accept);
        request.headers_mut().insert(ACCEPT, accept);
        Ok(request)
    }
}

/// The base URL of an endpoint.
struct Target {
    base: Uri,
    origin: Origin,
}

impl Target {
    fn of(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        let base: Option<Uri> = config.endpoint_url.parse().ok();
        base.and_then(|base| {
            let origin = Origin::of(&base)?;
            Some(Self { base, origin })
        })
        .ok_or_else(url_fault)
    }

    fn join(&self, path: &str) -> Result<Uri, ConnectorError> {
        let mut path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        if let Some(query) = self.base.query() {
            path.push('?');
            path.push_str(query);
        }
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| url_fault())?);
        Uri::from_parts(parts).map_err(|_| url_fault())
    }
}

pub(super) fn origin(config: &ConnectorConfig) -> Option<String> {
    let target = Target::of(config).ok()?;
    Some(target.origin.to_string())
}

fn url_fault() -> ConnectorError {
    ConnectorError::Settings(
        "endpoint_url: expected an absolute URL such as https://host/v1 or http://host:8080/v1, \
         without user name and password"
            .to_owned(),
    )
}

fn model_name(endpoint: &Endpoint) -> &str {
    let named = endpoint.config.parameters.get("model");
    named
        .filter(|name| !name.is_empty())
        .unwrap_or(&endpoint.model_id)
}

fn organization(config: &ConnectorConfig) -> Result<Option<HeaderValue>, ConnectorError> {
    if config.org_id.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(&config.org_id)
        .map(Some)
        .map_err(|_| ConnectorError::Settings("org_id: expected printable ASCII".to_owned()))
}

fn authorization(key: &ApiKey) -> Result<HeaderValue, ConnectorError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| ConnectorError::Settings("api_key: expected printable ASCII".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let media_type = value.and_then(|value| value.get(..EVENT_STREAM.len()));
    media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case(EVENT_STREAM.as_bytes()))
}
