use std::task::Waker;

use prost_reflect::DescriptorPool;

use super::*;
use crate::routes::RouteTable;
use crate::test_util::{client, config, identity};

fn open(calls: &Arc<OpenCalls>, worker: usize, path: &'static str) -> Listed {
    let route = RouteTable::new(&config(""), &DescriptorPool::new()).unknown;
    let path = PathAndQuery::from_static(path);
    calls.open((worker, 1), Protocol::Grpc, client(), path, route)
}

fn polled(call: &OpenCall) -> Poll<Cut> {
    call.poll_cut(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_call_that_is_named_is_ended_and_no_other() {
    let calls = OpenCalls::new(2);
    let (first, second) = (open(&calls, 0, "/a.S/M"), open(&calls, 1, "/b.S/M"));
    let cut = calls.cut_where(|call| (call.path.path() == "/b.S/M").then_some(Cut::Revoked));
    assert_eq!(cut, 1);
    assert_eq!(polled(&first), Poll::Pending);
    assert_eq!(polled(&second), Poll::Ready(Cut::Revoked));
}

#[test]
fn the_first_reason_counts_and_is_counted_once() {
    let calls = OpenCalls::new(1);
    let call = open(&calls, 0, "/a.S/M");
    assert_eq!(calls.cut_where(|_| Some(Cut::TokenExpired)), 1);
    assert_eq!(calls.cut_where(|_| Some(Cut::Draining)), 0);
    call.cut(Cut::Draining);
    assert_eq!(call.is_cut(), Some(Cut::TokenExpired));
}

#[tokio::test]
async fn a_call_that_waits_is_woken_when_it_is_cut() {
    let calls = OpenCalls::new(1);
    let listed = open(&calls, 0, "/a.S/M");
    let call = listed.clone();
    let waiting = tokio::spawn(async move { std::future::poll_fn(|cx| call.poll_cut(cx)).await });
    tokio::task::yield_now().await;
    calls.cut_where(|_| Some(Cut::RoleWithdrawn));
    assert_eq!(waiting.await.unwrap(), Cut::RoleWithdrawn);
}

#[test]
fn a_call_that_has_ended_is_listed_no_more() {
    let calls = OpenCalls::new(3);
    let listed: Vec<_> = (0..7).map(|n| open(&calls, n, "/a.S/M")).collect();
    assert_eq!(calls.count(), 7);
    drop(listed);
    assert_eq!(calls.count(), 0);
    assert_eq!(calls.cut_where(|_| Some(Cut::Draining)), 0);
}

#[test]
fn a_subject_has_as_many_open_calls_as_it_may_and_a_place_again_after_one_ends() {
    let calls = OpenCalls::new(1);
    let alice = identity("alice", &["user"]);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut call = open(&calls, 0, "/a.S/M");
        call.identified(&alice, 3).unwrap();
        held.push(call);
    }
    let reply = open(&calls, 0, "/a.S/M").identified(&alice, 3).unwrap_err();
    assert_eq!(reply.code, tonic::Code::ResourceExhausted);
    assert!(reply.retry_after.is_some());
    let mut other = open(&calls, 0, "/a.S/M");
    other.identified(&identity("bob", &["user"]), 3).unwrap();
    held.pop();
    open(&calls, 0, "/a.S/M").identified(&alice, 3).unwrap();
}

#[test]
fn every_way_to_end_a_call_tells_its_client_what_to_do() {
    use tonic::Code::{PermissionDenied, Unauthenticated, Unavailable};
    let codes = Cut::ALL.map(|cut| cut.reply().code);
    assert_eq!(
        codes,
        [
            Unauthenticated,
            Unauthenticated,
            PermissionDenied,
            Unavailable,
            Unauthenticated,
            Unauthenticated,
        ]
    );
}

#[test]
fn those_who_are_sent_away_by_a_drain_are_not_sent_back_all_at_once() {
    let waits = (0..100).filter_map(|_| Cut::Draining.reply().retry_after);
    let waits: std::collections::BTreeSet<_> = waits.map(|wait| wait.as_millis()).collect();
    assert!(waits.len() > 50, "{waits:?}");
    assert!(waits.iter().all(|wait| (500..=4000).contains(wait)));
}

#[test]
fn a_call_is_judged_once_by_each_new_generation_and_until_it_has_passed_its_checks() {
    let calls = OpenCalls::new(1);
    let call = open(&calls, 0, "/a.S/M");
    assert!(!call.must_be_judged_by(1), "it was let in by this one");
    assert!(call.must_be_judged_by(2) && call.must_be_judged_by(2));
    call.settle();
    assert!(call.must_be_judged_by(2));
    assert!(!call.must_be_judged_by(2));
    assert!(call.must_be_judged_by(3));
}
