//! One health check: a call of `grpc.health.v1.Health/Check` on a connection that
//! is kept for the next one as long as it brings answers.

use std::error::Error;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use prost_reflect::prost::Message as _;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{ANSWER_BYTES, Ask};
use crate::config::HealthConfig;
use crate::upstream::connect::UpstreamError;
use crate::upstream::endpoint::Endpoint;

/// The flag and the length before a gRPC message.
const PREFIX: usize = 5;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("{error}{}", cause(.error))]
    Unconnected { error: UpstreamError },
    #[error("the connection or the call broke: {0}")]
    Broken(#[from] h2::Error),
    #[error("HTTP status {0}")]
    NotGrpc(StatusCode),
    #[error("the answer has no status")]
    NoStatus,
    #[error("status {0:?}")]
    Status(Code),
    #[error("the answer is no HealthCheckResponse")]
    Malformed,
    #[error("the server says that it does not serve")]
    NotServing,
}

fn cause(error: &UpstreamError) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    cause.unwrap_or_default()
}

/// Asks one endpoint.
pub(super) struct Check {
    endpoint: Arc<Endpoint>,
    uri: Uri,
    message: Bytes,
    connection: Option<SendRequest<Bytes>>,
}

impl Check {
    pub(super) fn new(endpoint: Arc<Endpoint>, config: &HealthConfig) -> Self {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(endpoint.scheme.clone());
        uri.authority = Some(endpoint.authority.clone());
        uri.path_and_query = Some(PathAndQuery::from_static("/grpc.health.v1.Health/Check"));
        let request = HealthCheckRequest {
            service: config.service.clone(),
        };
        Self {
            // With all three parts it is one.
            uri: Uri::from_parts(uri).unwrap_or_default(),
            message: framed(&request.encode_to_vec()),
            endpoint,
            connection: None,
        }
    }

    /// The connection of the last check, unless it has closed meanwhile.
    async fn connect(&mut self) -> Result<SendRequest<Bytes>, CheckError> {
        if let Some(send) = self.connection.take()
            && let Ok(send) = send.ready().await
        {
            return Ok(send);
        }
        let connected = self.endpoint.connect().await;
        connected.map_err(|error| CheckError::Unconnected { error })
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(CONTENT_TYPE, grpc);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        request
    }
}

impl Ask for Check {
    /// Dropped before its end, or failed on its way, it leaves no connection
    /// behind.
    async fn ask(&mut self) -> Result<(), CheckError> {
        let mut send = self.connect().await?;
        let (response, mut body) = send.send_request(self.request(), false)?;
        body.send_data(self.message.clone(), true)?;
        let answer = Answer::read(response.await?).await?;
        // It brought an answer, whatever that says.
        self.connection = Some(send);
        answer.judge()
    }
}

/// What came back.
struct Answer {
    http: StatusCode,
    grpc: Option<Code>,
    message: BytesMut,
}

impl Answer {
    async fn read(response: Response<RecvStream>) -> Result<Self, CheckError> {
        let (head, mut body) = response.into_parts();
        let mut message = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            if message.len() + data.len() > ANSWER_BYTES {
                return Err(CheckError::Malformed);
            }
            body.flow_control().release_capacity(data.len())?;
            message.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?;
        Ok(Self {
            http: head.status,
            grpc: code(&head.headers).or_else(|| code(&trailers?)),
            message,
        })
    }

    fn judge(self) -> Result<(), CheckError> {
        match (self.http, self.grpc) {
            (StatusCode::OK, Some(Code::Ok)) => {}
            // There is no health service, or it is not for the gateway. (What
            // such HTTP statuses mean for gRPC: "HTTP to gRPC Status Code Mapping".)
            (
                StatusCode::OK,
                Some(Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied),
            )
            | (StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                return Ok(());
            }
            (StatusCode::OK, Some(code)) => return Err(CheckError::Status(code)),
            (StatusCode::OK, None) => return Err(CheckError::NoStatus),
            (status, _) => return Err(CheckError::NotGrpc(status)),
        }
        match serving(&self.message) {
            Some(true) => Ok(()),
            Some(false) => Err(CheckError::NotServing),
            None => Err(CheckError::Malformed),
        }
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// A message with the prefix that it has on the way.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    // Not compressed. The name of a service is far shorter than 4 GiB.
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.extend_from_slice(message);
    bytes.freeze()
}

/// What a single message that is not compressed says.
fn serving(bytes: &[u8]) -> Option<bool> {
    let (prefix, message) = bytes.split_at_checked(PREFIX)?;
    let length = message.len() as u32;
    if prefix[0] != 0 || prefix[1..] != length.to_be_bytes() {
        return None;
    }
    let answer = HealthCheckResponse::decode(message).ok()?;
    Some(answer.status() == ServingStatus::Serving)
}
