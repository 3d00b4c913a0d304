//! The four faces of a service from one description: trait, gRPC client, mock, resilient wrapper.
//!
//! A method is described as
//!
//! ```text
//! /// What it does.
//! unary repeatable fn get_model(request: GetModelRequest) -> GetModelResponse;
//! ```
//!
//! with `unary` or `stream` (of messages from the server), and `repeatable`, `once` or `work` (see
//! `CallKind`; a test compares it with the `.proto`). Where the arguments are not the request message
//! itself, its type and an expression that builds it from them follow after `=`.

/// What a method returns.
macro_rules! answer {
    (unary $response:ty) => { $response };
    (stream $item:ty) => { $crate::clients::ResponseStream<$item> };
}

/// The double of a method.
macro_rules! mock_method {
    (unary $request:ty, $response:ty) => { $crate::clients::MockMethod<$request, $response> };
    (stream $request:ty, $item:ty) => { $crate::clients::MockStream<$request, $item> };
}

macro_rules! call_kind {
    (repeatable) => {
        $crate::resilience::CallKind::Repeatable
    };
    (once) => {
        $crate::resilience::CallKind::Once
    };
    (work) => {
        $crate::resilience::CallKind::Work
    };
}

/// The type of the request message.
macro_rules! request_type {
    ($argument:ident: $type:ty) => {
        $type
    };
    ($($argument:ident: $type:ty),+ = $request:ty) => {
        $request
    };
}

/// The request message, made from the arguments: an `IpcResult`.
macro_rules! request {
    ($argument:ident) => {
        $crate::error::IpcResult::Ok($argument)
    };
    ($($argument:ident),+ = $build:expr) => {
        $build
    };
}

macro_rules! service_client {
    (
        $(#[$doc:meta])*
        trait $client:ident for $service:literal;
        grpc $grpc:ident($generated:ident);
        resilient $resilient:ident;
        mock $mock:ident $({ $($extra:ident: $extra_type:ty),+ })?;

        $(
            $(#[$method_doc:meta])*
            $kind:ident $repeat:ident fn $method:ident($($argument:ident: $type:ty),+ $(,)?)
                -> $response:ty $(= $request:ty { $build:expr })?;
        )+
    ) => {
        $(#[$doc])*
        #[async_trait::async_trait]
        pub trait $client: Send + Sync {$(
            $(#[$method_doc])*
            async fn $method(
                &self,
                $($argument: $type),+
            ) -> $crate::error::IpcResult<answer!($kind $response)>;
        )+}

        #[doc = concat!("[`", stringify!($client), "`] over a gRPC channel. Clones share it.")]
        ///
        /// With TLS and tokens it is made by a
        /// [`SecureGrpcClientBuilder`](crate::security::SecureGrpcClientBuilder); `from` takes a
        /// generated client with settings of its own.
        #[derive(Clone, Debug)]
        pub struct $grpc {
            inner: $generated<$crate::security::SecureChannel>,
        }

        impl $grpc {
            /// Connects to `http://host[:port]`, without TLS and without a token.
            ///
            /// # Errors
            /// [`IpcError::InvalidArgument`](crate::IpcError::InvalidArgument) if the URL is not
            /// one, or asks for TLS; [`IpcError::Transport`](crate::IpcError::Transport) if no
            /// connection can be made within 10 s.
            pub async fn new(url: impl AsRef<str>) -> $crate::error::IpcResult<Self> {
                $crate::clients::grpc::connect(url.as_ref()).await
            }

            /// A client over a channel that is there already.
            pub fn with_channel(channel: $crate::security::SecureChannel) -> Self {
                $generated::new(channel).into()
            }
        }

        impl From<$generated<$crate::security::SecureChannel>> for $grpc {
            fn from(inner: $generated<$crate::security::SecureChannel>) -> Self {
                Self { inner }
            }
        }

        impl $crate::security::FromSecureChannel for $grpc {
            fn from_secure_channel(channel: $crate::security::SecureChannel) -> Self {
                Self::with_channel(channel)
            }
        }

        #[async_trait::async_trait]
        impl $client for $grpc {$(
            async fn $method(
                &self,
                $($argument: $type),+
            ) -> $crate::error::IpcResult<answer!($kind $response)> {
                let message = request!($($argument),+ $(= $build)?)?;
                let request = $crate::clients::kind::request(message);
                let response = self.inner.clone().$method(request).await?;
                Ok($crate::clients::kind::$kind::answer(response))
            }
        )+}

        #[doc = concat!(
            "[`", stringify!($client), "`] with timeouts, retries and a breaker around each call."
        )]
        ///
        /// Which calls may be repeated is part of the contract (`idempotency_level`). A stream is
        /// under the policy to its end: the time of the call bounds all of it, is sent to the server
        /// as `grpc-timeout`, and ends it with `DEADLINE_EXCEEDED`; the breaker counts how it ends
        /// (see [`ResiliencePolicy::stream`](crate::resilience::ResiliencePolicy::stream)).
        #[derive(Clone)]
        pub struct $resilient {
            inner: std::sync::Arc<dyn $client>,
            policy: std::sync::Arc<$crate::resilience::ResiliencePolicy>,
        }

        impl $resilient {
            /// Puts `policy` around the calls of `inner`. A policy belongs to one destination:
            /// clients of the same server share it.
            pub fn new(
                inner: std::sync::Arc<dyn $client>,
                policy: std::sync::Arc<$crate::resilience::ResiliencePolicy>,
            ) -> Self {
                Self { inner, policy }
            }
        }

        impl std::fmt::Debug for $resilient {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($resilient))
                    .field("policy", &self.policy)
                    .finish_non_exhaustive()
            }
        }

        #[async_trait::async_trait]
        impl $client for $resilient {$(
            async fn $method(
                &self,
                $($argument: $type),+
            ) -> $crate::error::IpcResult<answer!($kind $response)> {
                // `Clone::clone`, since some arguments are references and would be cloned as such.
                let attempt = || self.inner.$method($(Clone::clone(&$argument)),+);
                $crate::clients::kind::$kind::resilient(
                    &self.policy,
                    call_kind!($repeat),
                    attempt,
                )
                .await
            }
        )+}

        #[doc = concat!("A double of [`", stringify!($client), "`]: a programmable answer per method.")]
        #[derive(Debug)]
        pub struct $mock {
            $(
                $(#[$method_doc])*
                pub $method: mock_method!(
                    $kind request_type!($($argument: $type),+ $(= $request)?), $response
                ),
            )+
            $($($extra: $extra_type,)+)?
        }

        impl $mock {
            /// Nothing is programmed: every call fails and says so.
            pub fn new() -> Self {
                Self {
                    $($method: $crate::clients::MockMethod::new(
                        concat!(stringify!($mock), "::", stringify!($method)),
                    ),)+
                    $($($extra: <$extra_type>::default(),)+)?
                }
            }
        }

        impl Default for $mock {
            fn default() -> Self {
                Self::new()
            }
        }

        #[async_trait::async_trait]
        impl $client for $mock {$(
            async fn $method(
                &self,
                $($argument: $type),+
            ) -> $crate::error::IpcResult<answer!($kind $response)> {
                let message = request!($($argument),+ $(= $build)?)?;
                Ok($crate::clients::kind::$kind::programmed(self.$method.answer(message)?))
            }
        )+}

        #[cfg(test)]
        impl $resilient {
            /// The name of the service, and its methods as they are described here.
            pub(super) fn description() -> $crate::clients::tests::Description {
                $crate::clients::tests::Description {
                    service: $service,
                    methods: vec![$((
                        stringify!($method),
                        stringify!($kind),
                        call_kind!($repeat),
                    )),+],
                }
            }
        }
    };
}
