//! A gateway in front of a service that it has no descriptors of, whose
//! backend works on frames.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::{Config, Gateway, Site, grpc};

/// A method behind the role `tester`.
pub const PATH: &str = "/foreign.Service/Method";

/// A gateway in front of a backend that works on frames.
pub async fn in_front_of<H, F>(site: &Site, handle: H) -> (Backend, Gateway)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let backend = Backend::start(site, handle).await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text("[[routes]]\nmatch = \"/foreign.Short/*\"\nupstream = \"foreign\"\nroles = [\"*\"]\ntimeout = \"1s\"\n")
        .with_text("[[routes]]\nmatch = \"/foreign.Trusted/*\"\nupstream = \"foreign\"\nroles = [\"*\"]\nforward_authorization = true\n");
    let gateway = site.gateway(&config);
    (backend, gateway)
}

/// The `authorization` of a `tester`.
pub fn bearer(site: &Site) -> String {
    format!("Bearer {}", site.token(&["tester"]))
}

/// Response headers of a call that goes well.
pub fn ok_head() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// Trailers of a call that went well.
pub fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])
}

/// Answers with one empty message.
pub fn answer(mut respond: SendResponse<Bytes>) {
    let mut send = respond.send_response(ok_head(), false).unwrap();
    send.send_data(grpc::frame(false, b""), false).unwrap();
    send.send_trailers(ok_trailers()).unwrap();
}

/// A backend that tells the headers of each call and answers it.
pub fn tells_headers(
    tell: mpsc::UnboundedSender<HeaderMap>,
) -> impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> std::future::Ready<()> + Clone {
    move |request, respond| {
        tell.send(request.headers().clone()).unwrap();
        answer(respond);
        std::future::ready(())
    }
}

/// A backend that never answers, and tells when it is called and when the
/// call is reset.
pub fn reports_reset(
    tell: mpsc::UnboundedSender<&'static str>,
) -> impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> BoxFuture<'static, ()> + Clone {
    move |_request, mut respond| {
        let tell = tell.clone();
        Box::pin(async move {
            tell.send("called").unwrap();
            let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            tell.send("reset").unwrap();
        })
    }
}

/// A backend that answers each call with one empty message, and then never
/// ends it.
pub fn endless(
    _request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut send = respond.send_response(ok_head(), false).unwrap();
        send.send_data(grpc::frame(false, b""), false).unwrap();
        let _ = std::future::poll_fn(|context| send.poll_reset(context)).await;
    })
}
