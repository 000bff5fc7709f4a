//! A connection that listens to a channel and does nothing else.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisConnectionInfo, Value};
use tokio::time::timeout;

use super::connection::{Greeting, connect};
use super::open_error::{RedisOpenError, RedisOpenErrorKind};
use crate::options::Endpoint;

/// What is said on a channel, from the moment on at which this was opened.
pub(crate) struct Subscription {
    messages: PubSubStream,
    sink: PubSubSink,
}

impl Subscription {
    /// How long nothing may be said.
    const QUIET: Duration = Duration::from_secs(10);

    /// The caller bounds the time.
    pub(super) async fn open(endpoint: &Endpoint, greeting: &Greeting, channel: &str) -> Result<Self, RedisOpenError> {
        let refused = |message: &str, cause| {
            RedisOpenError::new(RedisOpenErrorKind::Refused, endpoint, message).with_source(cause)
        };
        let stream = connect(endpoint, greeting.tls.as_ref()).await?;
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &greeting.password {
            info = info.set_username(greeting.username.as_deref().unwrap_or("default")).set_password(password);
        }
        let pubsub = redis::aio::PubSub::new(&info, stream);
        let pubsub =
            pubsub.await.map_err(|cause| refused("the connection for listening could not be set up", cause))?;
        let (mut sink, messages) = pubsub.split();
        let subscribed = sink.subscribe(channel).await;
        subscribed.map_err(|cause| {
            if cause.code() != Some("NOPERM") {
                return refused("the connection for listening was lost when it was set up", cause);
            }
            let message = format!(
                "it does not let this user listen to the channel `{channel}`: ACL SETUSER … &{channel} +subscribe"
            );
            refused(&message, cause)
        })?;
        Ok(Self { messages, sink })
    }

    /// The next message; `None` once the connection is lost. When all is quiet the server is asked whether
    /// it is still there: one that is gone without a word would be listened to for ever.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(message) = timeout(Self::QUIET, self.messages.next()).await {
                return Some(message?.get_payload_bytes().to_vec());
            }
            timeout(Self::QUIET, self.sink.ping::<Value>()).await.ok()?.ok()?;
        }
    }
}
