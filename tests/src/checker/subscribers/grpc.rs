//! A connection of a subscriber over gRPC.

use std::io;

use bytes::{Buf as _, BytesMut};
use intellirouter_proto::intellirouter::events::v1::subscribe_response::Message as Said;
use intellirouter_proto::intellirouter::events::v1::{
    GapReason, SubscribeRequest, SubscribeResponse,
};
use prost::Message as _;

use super::{Notes, SILENCE, Shared, Subscriber};
use crate::checker::history::{Item, Place};
use crate::checker::payload;
use crate::checker::wire::{piece, within};

/// Follows until nothing more is wanted; every other end is an error.
pub(super) async fn follow(
    subscriber: &Subscriber,
    shared: &Shared,
    door: u16,
    notes: &mut Notes,
) -> io::Result<()> {
    let mut connection = shared.entrance.http2(door).await?;
    let channels = subscriber
        .channels
        .iter()
        .map(|channel| shared.channels[*channel].clone());
    let request = SubscribeRequest {
        channels: channels.collect(),
        last_event_id: notes.last.map(|last| last.to_string()).unwrap_or_default(),
        ..SubscribeRequest::default()
    };
    let path = "/intellirouter.events.v1.EventService/Subscribe";
    let bearer = &shared.entrance.bearer;
    let answer = connection
        .call(path, bearer, &request.encode_to_vec())
        .await?;
    if let Some(status) = answer.headers().get("grpc-status") {
        return Err(io::Error::other(format!("grpc-status {status:?}")));
    }
    let (mut body, mut buffer) = (answer.into_body(), BytesMut::new());
    // A quiet gRPC stream has no heartbeat; some channel has events all the time.
    while let Some(data) = within("byte", SILENCE, piece(&mut body)).await? {
        buffer.extend_from_slice(&data);
        while let Some(message) = message(&mut buffer) {
            if notes.add_all(item(&message).into_iter().collect()) {
                return Ok(());
            }
        }
        notes.stall().await;
    }
    Err(io::Error::other("ended"))
}

/// Takes the next whole message.
fn message(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = buffer.get(1..5)?.try_into().ok().map(u32::from_be_bytes)?;
    let length = usize::try_from(length).ok()?;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length))
}

fn item(message: &[u8]) -> Option<Item> {
    let said = SubscribeResponse::decode(message)
        .ok()
        .and_then(|response| response.message);
    let Some(said) = said else {
        return Some(Item::Nonsense {
            what: format!("{message:02x?}"),
        });
    };
    let read = match &said {
        Said::Opened(opened) => place(&opened.id).map(|id| Item::Opened { resumed: None, id }),
        Said::Event(event) => {
            let key = payload::read(&event.payload);
            place(&event.id).map(|id| Item::Event { id, key })
        }
        Said::Gap(gap) => place(&gap.to).map(|to| Item::Gap {
            from: place(&gap.from),
            to,
            reason: reason(gap.reason()).into(),
        }),
        Said::Position(mark) => place(&mark.id).map(|id| Item::Position { id }),
        Said::Error(error) => Some(Item::Lost {
            why: format!("told: {}", error.reason),
        }),
        Said::Expiring(_) => return None,
    };
    Some(read.unwrap_or_else(|| Item::Nonsense {
        what: format!("{said:?}"),
    }))
}

fn place(id: &str) -> Option<Place> {
    id.parse().ok()
}

fn reason(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Unspecified => "unspecified",
        GapReason::Trimmed => "trimmed",
        GapReason::StoreLostData => "store_lost_data",
        GapReason::StoreRestarted => "store_restarted",
        GapReason::RecorderAway => "recorder_away",
        GapReason::Slow => "slow",
    }
}
