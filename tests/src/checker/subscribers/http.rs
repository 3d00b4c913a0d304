//! A connection of a subscriber over HTTP/1.1.

use std::io;

use super::decode::Lines;
use super::{Dialect, Notes, SILENCE, Shared, Subscriber};
use crate::checker::wire::within;

/// Follows until nothing more is wanted; every other end is an error.
pub(super) async fn follow(
    subscriber: &Subscriber,
    shared: &Shared,
    door: u16,
    notes: &mut Notes,
) -> io::Result<()> {
    let mut connection = subscriber.entrance(shared).http1(door).await?;
    connection
        .write(request(subscriber, shared, notes).as_bytes())
        .await?;
    let head = connection.head().await?;
    if head.status() != 200 {
        return Err(io::Error::other(format!("status {}", head.status())));
    }
    let mut lines = Lines::new(subscriber.dialect == Dialect::Ndjson);
    while let Some(chunk) = within("byte", SILENCE, connection.chunk()).await? {
        if notes.add_all(lines.feed(&chunk)) {
            return Ok(());
        }
        notes.stall().await;
    }
    Err(io::Error::other("ended"))
}

fn request(subscriber: &Subscriber, shared: &Shared, notes: &Notes) -> String {
    let channels = subscriber
        .channels
        .iter()
        .map(|channel| &*shared.channels[*channel]);
    let channels = channels.collect::<Vec<_>>().join("&channel=");
    let accept = match subscriber.dialect {
        Dialect::Ndjson => "application/x-ndjson",
        _ => "text/event-stream",
    };
    let bearer = &shared.entrance.bearer;
    let last = notes.last.map(|last| format!("last-event-id: {last}\r\n"));
    format!(
        "GET /events?channel={channels} HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer}\r\n\
         accept: {accept}\r\n{}\r\n",
        last.unwrap_or_default()
    )
}
