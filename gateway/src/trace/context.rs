//! W3C Trace Context: what a caller says of its trace, what a backend is told,
//! and which traces are sampled.
//!
//! A malformed `traceparent`, or more than one, counts as none, and its
//! `tracestate` is then dropped too (W3C Trace Context, 3.2 and 3.3).

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceId, TraceState};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-<32 digits>-<16 digits>-<2 digits>`.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
/// The longest `tracestate` that a span records, in bytes: what the standard
/// asks everybody to pass on.
const MAX_STATE: usize = 512;

/// Where a caller's trace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) sampled: bool,
}

impl Parent {
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        match values.next() {
            None => Self::parse(value.as_bytes()),
            Some(_) => None,
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let version = *hex::<1>(text.get(..2)?)?.first()?;
        let longer = match text.len() {
            LENGTH => false,
            // Later versions may add fields.
            _ => version > 0 && text.get(LENGTH) == Some(&b'-'),
        };
        if version == 0xff || text.len() < LENGTH || (text.len() > LENGTH && !longer) {
            return None;
        }
        if [text[2], text[35], text[52]] != [b'-'; 3] {
            return None;
        }
        let trace_id = TraceId::from_bytes(hex(&text[3..35])?);
        let span_id = SpanId::from_bytes(hex(&text[36..52])?);
        let [flags] = hex(&text[53..55])?;
        (trace_id != TraceId::INVALID && span_id != SpanId::INVALID).then_some(Self {
            trace_id,
            span_id,
            sampled: flags & SAMPLED != 0,
        })
    }
}

/// Lower-case digits alone, as the standard says.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What other systems say of the trace, where it is short and well-formed.
pub(super) fn state(headers: &HeaderMap) -> Option<TraceState> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?.to_str().ok()?;
    // Several headers are one list; they are hardly ever sent.
    let text = values.try_fold(first.to_owned(), |list, value| {
        Some(format!("{list},{}", value.to_str().ok()?))
    })?;
    (text.len() <= MAX_STATE)
        .then(|| text.parse().ok())
        .flatten()
}

/// Tells a backend; `restarted` when no caller's trace is continued.
pub(super) fn write(
    headers: &mut HeaderMap,
    trace_id: TraceId,
    span_id: SpanId,
    sampled: bool,
    restarted: bool,
) {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    digits(&mut text[3..35], &trace_id.to_bytes());
    digits(&mut text[36..52], &span_id.to_bytes());
    text[54] += u8::from(sampled);
    let Ok(value) = HeaderValue::from_bytes(&text) else {
        return;
    };
    match headers.get_mut(TRACEPARENT).filter(|_| !restarted) {
        // An insertion would make room in the map first.
        Some(callers) => *callers = value,
        None => {
            headers.insert(TRACEPARENT, value);
            headers.remove(TRACESTATE);
        }
    }
}

fn digits(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

pub(super) fn new_trace_id() -> TraceId {
    // Zero is no id; so is one time in 2^128.
    TraceId::from_bytes(rand::random::<u128>().max(1).to_be_bytes())
}

pub(super) fn new_span_id() -> SpanId {
    SpanId::from_bytes(rand::random::<u64>().max(1).to_be_bytes())
}

/// Which traces are sampled: the same ones as OpenTelemetry's sampler by trace
/// id takes at the same share, so that services agree.
pub(super) struct Sampler {
    /// Of 2^63.
    most: u64,
    follow_caller: bool,
}

impl Sampler {
    pub(super) fn new(share: f64, follow_caller: bool) -> Self {
        Self {
            most: (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64,
            follow_caller,
        }
    }

    pub(super) fn takes(&self, trace_id: TraceId, parent: Option<&Parent>) -> bool {
        if let Some(parent) = parent.filter(|_| self.follow_caller) {
            return parent.sampled;
        }
        let [_, _, _, _, _, _, _, _, low @ ..] = trace_id.to_bytes();
        u64::from_be_bytes(low) >> 1 < self.most
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanKind;
    use opentelemetry_sdk::trace::{Sampler as Standard, SamplingDecision, ShouldSample as _};

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(values: &[&str]) -> HeaderMap {
        let header = |value: &&str| (TRACEPARENT, HeaderValue::from_str(value).unwrap());
        values.iter().map(header).collect()
    }

    #[test]
    fn a_callers_trace_is_read_and_written_as_it_was() {
        let mut sent = headers(&[GOOD]);
        let parent = Parent::read(&sent).unwrap();
        assert!(parent.sampled);
        write(&mut sent, parent.trace_id, parent.span_id, true, false);
        assert_eq!(sent[TRACEPARENT], GOOD);
        write(&mut sent, parent.trace_id, parent.span_id, false, false);
        assert_eq!(sent[TRACEPARENT], GOOD.replace("-01", "-00"));
    }

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        let later = format!("cc-{}-what-comes", &GOOD[3..]);
        assert!(Parent::read(&headers(&[&later])).is_some());
    }

    #[test]
    fn a_malformed_trace_context_is_none() {
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("cc-{}.what", &GOOD[3..]),
            &GOOD.replace("00-0af", "ff-0af"),
            &GOOD.replace("0af7", "0AF7"),
            &GOOD.replace("-b7", "_b7"),
            &GOOD.replace("0af7", "0ag7"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert_eq!(Parent::read(&headers(&[wrong])), None, "{wrong}");
        }
        assert_eq!(Parent::read(&headers(&[GOOD, GOOD])), None);
        let high =
            HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_bytes(&[0xe9; 55]).unwrap())]);
        assert_eq!(Parent::read(&high), None);
    }

    #[test]
    fn the_share_takes_the_same_traces_as_the_standard_sampler() {
        for share in [0.0, 0.01, 0.5, 1.0] {
            let (ours, standard) = (
                Sampler::new(share, false),
                Standard::TraceIdRatioBased(share),
            );
            let mut taken = 0;
            for _ in 0..2000 {
                let id = new_trace_id();
                let theirs = standard.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
                let ours = ours.takes(id, None);
                assert_eq!(
                    ours,
                    theirs.decision == SamplingDecision::RecordAndSample,
                    "{id}"
                );
                taken += u32::from(ours);
            }
            assert_eq!(taken == 2000, share == 1.0, "{share}: {taken}");
            assert_eq!(taken == 0, share == 0.0, "{share}: {taken}");
        }
    }

    #[test]
    fn a_caller_decides_only_where_it_is_followed() {
        let parent = |flags| Parent::read(&headers(&[&GOOD.replace("-01", flags)])).unwrap();
        let (asks, declines) = (parent("-01"), parent("-00"));
        let id = asks.trace_id;
        for (share, follow, parent, taken) in [
            (0.0, true, Some(&asks), true),
            (1.0, true, Some(&declines), false),
            (1.0, true, None, true),
            (0.0, false, Some(&asks), false),
            (1.0, false, Some(&declines), true),
        ] {
            let sampler = Sampler::new(share, follow);
            assert_eq!(
                sampler.takes(id, parent),
                taken,
                "{share} {follow} {parent:?}"
            );
        }
    }
}
