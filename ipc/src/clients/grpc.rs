//! The short way to a gRPC client, for servers that need neither TLS nor a token.

use crate::error::{IpcError, IpcResult};
use crate::security::{FromSecureChannel, SecureGrpcClientBuilder, shown_url};

/// Connects to `http://host[:port]`.
pub(super) async fn connect<C: FromSecureChannel>(url: &str) -> IpcResult<C> {
    let uri: Option<http::Uri> = url.parse().ok();
    if uri.is_some_and(|uri| uri.scheme() == Some(&http::uri::Scheme::HTTPS)) {
        return Err(IpcError::InvalidArgument(format!(
            "URL {}: `new` connects without TLS; for https use SecureGrpcClientBuilder, with \
             with_tls",
            shown_url(url)
        )));
    }
    // The domain is only looked at with TLS.
    SecureGrpcClientBuilder::new("")
        .allow_plaintext()
        .build(url)
        .await
}
