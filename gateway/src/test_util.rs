//! What the unit tests share: a checked configuration on real development
//! files, callers with real tokens, HTTP/2 streams in memory, and backends on
//! the loopback that do what a test tells them.

mod allocations;

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use intellirouter::security::{JwtAuthenticator, JwtConfig};
use prost_reflect::DescriptorPool;
use tokio::net::TcpListener;

use crate::body::{Body, BodyError};
use crate::calls::OpenCalls;
use crate::certs::{self, DevFiles};
use crate::config::Config;
use crate::layers::authenticate::{Authenticate, Identity};
use crate::routes::{Route, RouteTable};
use crate::server::Client;
use crate::telemetry::{CallRecord, Protocol, Telemetry};
use crate::trace::Tracing;

pub(crate) use allocations::allocations;

/// One set of development files for all tests; making it is the slow part.
static FILES: LazyLock<(tempfile::TempDir, DevFiles)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let files = certs::ensure(dir.path()).unwrap();
    (dir, files)
});

pub(crate) fn files() -> &'static DevFiles {
    &FILES.1
}

fn secret() -> String {
    std::fs::read_to_string(&files().jwt_secret)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// A configuration that has all that must be there, and `extra`.
pub(crate) fn config(extra: &str) -> Config {
    config_listening("", extra)
}

/// The same with further keys of `[listen]`.
pub(crate) fn config_listening(listen: &str, extra: &str) -> Config {
    let text = format!(
        "[listen]\ncert_file = 'gateway.crt'\nkey_file = 'gateway.key'\n{listen}\n\
         [[auth.keys]]\nalgorithm = 'HS256'\nsecret_file = 'jwt.secret'\n\
         [identity]\nkey_file = 'identity.key'\n[log]\naccess = false\n{extra}"
    );
    let base: &Path = files().jwt_secret.parent().unwrap();
    match Config::parse(&text, "test.toml", base) {
        Ok(config) => config,
        Err(faults) => panic!("{faults}"),
    }
}

/// A token as [`config`]'s gateway takes it, valid for `seconds` from now.
pub(crate) fn token_for(subject: &str, roles: &[&str], seconds: u64) -> String {
    let jwt = JwtAuthenticator::new(JwtConfig {
        secret: secret(),
        issuer: "intellirouter".into(),
        audience: "intellirouter-services".into(),
        expiration_seconds: seconds,
    });
    jwt.generate_token(
        subject,
        roles.iter().map(|role| (*role).to_owned()).collect(),
    )
    .unwrap()
}

pub(crate) fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        AUTHORIZATION,
        HeaderValue::try_from(format!("Bearer {token}")).unwrap(),
    );
    headers
}

/// A step that knows the tokens of [`token_for`] and signs for `audiences`.
pub(crate) fn authenticate(audiences: &[&str]) -> Arc<Authenticate> {
    let upstream = |name: &&str| {
        format!("[[upstreams]]\nname = '{name}'\nendpoints = ['http://127.0.0.1:1']\n")
    };
    let upstreams: String = audiences.iter().map(upstream).collect();
    Authenticate::build(&config(&upstreams), None, &OpenCalls::new(1)).unwrap()
}

/// A caller whose token was verified.
pub(crate) fn identity(subject: &str, roles: &[&str]) -> Arc<Identity> {
    let headers = bearer(&token_for(subject, roles, 3600));
    let step = authenticate(&[]);
    // Its key is known, so there is nothing to wait for.
    let check = step.check(&headers, SystemTime::now()).now_or_never();
    check.unwrap().unwrap()
}

/// What is ready now.
pub(crate) fn now<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

/// Under paused time: lets every task run until nothing moves any more.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// One HTTP/2 stream in memory, its request half in use and open.
pub(crate) struct Flow {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
    pub(crate) answer: (SendStream<Bytes>, Response<RecvStream>),
}

/// A flow whose receiver gives `window` bytes of credit before it is read.
pub(crate) async fn flow(window: u32) -> Flow {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut builder = h2::server::Builder::new();
    // Small frames wait unread on purpose here.
    builder.data_frame_budget(1 << 20);
    builder
        .initial_window_size(window)
        .initial_connection_window_size(1 << 30);
    let (client, server) = tokio::join!(
        h2::client::handshake(near),
        builder.handshake::<_, Bytes>(far)
    );
    let ((mut client, connection), mut server) = (client.unwrap(), server.unwrap());
    tokio::spawn(connection);
    let (answer, send) = client.send_request(Request::new(()), false).unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    let open = respond.send_response(Response::new(()), false).unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    // The answer comes after the server's settings, so the window holds now.
    let answer = answer.await.unwrap();
    Flow {
        send,
        recv: request.into_body(),
        answer: (open, answer),
    }
}

/// Sends `data` as the receiver's credit allows. `false` if the stream ended.
pub(crate) async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        while send.capacity() == 0 {
            match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                _ => return false,
            }
        }
        if send
            .send_data(data.split_to(send.capacity().min(data.len())), false)
            .is_err()
        {
            return false;
        }
    }
    true
}

/// Everything a stream brings, giving credit back as it goes.
pub(crate) async fn receive(
    recv: &mut RecvStream,
) -> Result<(Vec<Bytes>, Option<HeaderMap>), h2::Error> {
    let mut frames = Vec::new();
    while let Some(frame) = recv.data().await {
        let frame = frame?;
        recv.flow_control().release_capacity(frame.len())?;
        frames.push(frame);
    }
    Ok((frames, recv.trailers().await?))
}

/// Everything a body brings: its bytes, its trailers, its error.
pub(crate) async fn drain(body: &mut Body) -> (Vec<u8>, Option<HeaderMap>, Option<BodyError>) {
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    loop {
        match std::future::poll_fn(|cx| {
            body.release(usize::MAX);
            body.poll_next(cx)
        })
        .await
        {
            None => return (bytes.to_vec(), trailers, None),
            Some(Err(error)) => return (bytes.to_vec(), trailers, Some(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// A backend on the loopback, plain HTTP/2, that treats every call with
/// `handler`; tells its port.
pub(crate) async fn backend<F, R>(handler: F) -> u16
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Else paused time runs while a small frame waits for an ACK.
            socket.set_nodelay(true).unwrap();
            let handler = handler.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(handler(request, respond));
                }
            });
        }
    });
    port
}

/// The header block of a gRPC answer that goes on.
pub(crate) fn grpc_head() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// Trailers with this status.
pub(crate) fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static(code),
    )])
}

/// A client that has shown nothing.
pub(crate) fn client() -> Arc<Client> {
    Arc::new(Client {
        address: (std::net::Ipv4Addr::LOCALHOST, 1).into(),
        certificate: None,
    })
}

/// A call that nobody looks at.
pub(crate) fn call_record() -> Box<CallRecord> {
    let telemetry = Telemetry::new(false, Tracing::off());
    call_record_of(&telemetry, route(|_| {}))
}

/// A route like that of unknown calls, but for what `edit` changes.
pub(crate) fn route(edit: impl FnOnce(&mut Route)) -> Arc<Route> {
    let unknown = RouteTable::new(&config(""), &DescriptorPool::new()).unknown;
    let mut route = Arc::into_inner(unknown).unwrap();
    edit(&mut route);
    Arc::new(route)
}

/// A call of this route.
pub(crate) fn call_record_of(telemetry: &Arc<Telemetry>, route: Arc<Route>) -> Box<CallRecord> {
    let path = http::uri::PathAndQuery::from_static("/a.S/M");
    let call = OpenCalls::new(1).open((0, 1), Protocol::Grpc, client(), path, route);
    CallRecord::begin(telemetry, call)
}
