//! The one script that counts in the store: what goes in and what comes out.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script, Value};

use super::super::lease::Answer;
use super::Ask;

static COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("count.lua")));

/// Of every key: all must lie on one node of a cluster.
pub(crate) const TAG: &str = "{intellirouter}:limit:";

/// One answer; or what is wrong with the key.
pub(super) type Counted = Result<Answer, String>;

/// What one run of the script says.
pub(super) struct Report {
    /// Living gateways, if that was asked.
    pub(super) alive: Option<u32>,
    /// The name of the store's memory. Where another one was expected nothing
    /// was counted.
    pub(super) memory: String,
    /// Keys that held something else and were made anew.
    pub(super) mended: Vec<String>,
    /// In the order of the questions.
    pub(super) counted: Vec<Counted>,
}

/// Who sends questions.
pub(super) struct Sender<'s> {
    pub(super) name: &'s str,
    /// For how long it now says that it lives, if it does.
    pub(super) life: Option<Duration>,
    /// With no word of any gateway for so long the service is interrupted.
    pub(super) interrupted: Duration,
    /// The name of the store's memory, where it is known; what was counted
    /// in another one has to be told first.
    pub(super) memory: Option<&'s str>,
    /// Gateways that share a rate without the store.
    pub(super) gateways: u32,
}

/// Sends `asks`.
pub(super) async fn count(
    connection: &mut MultiplexedConnection,
    sender: &Sender<'_>,
    asks: &[Ask],
) -> RedisResult<Report> {
    let mut script = COUNT.key(format!("{TAG}gateways"));
    script
        .key(format!("{TAG}since"))
        .key(format!("{TAG}memory"));
    let memory = format!("{:016x}", rand::random::<u64>());
    let life = sender.life.map_or(0, |life| life.as_millis());
    let interrupted = sender.interrupted.as_millis();
    script
        .arg(sender.name)
        .arg(life.to_string())
        .arg(interrupted.to_string())
        .arg(sender.gateways)
        .arg(memory)
        .arg(sender.memory.unwrap_or_default());
    for ask in asks {
        let (pace, question) = (ask.rate.terms().pace, &ask.question);
        script
            .key(ask.rate.name(ask))
            .arg(question.calls)
            .arg(micros(pace.interval))
            .arg(pace.burst)
            .arg(micros(question.floor))
            .arg(micros(question.charge))
            .arg(micros(question.spent))
            .arg(micros(question.alone));
    }
    let answers: Vec<Value> = script.invoke_async(connection).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or(Value::Nil);
    let alive: i64 = redis::from_redis_value(next())?;
    let (memory, mended) = (next(), next());
    Ok(Report {
        alive: u32::try_from(alive).ok(),
        memory: redis::from_redis_value(memory)?,
        mended: redis::from_redis_value(mended)?,
        counted: answers.map(counted).collect(),
    })
}

/// Nanoseconds as microseconds with their fraction.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

fn counted(value: Value) -> Counted {
    let ints = match &value {
        Value::Array(parts) => parts.as_slice(),
        Value::BulkString(why) => return Err(String::from_utf8_lossy(why).into_owned()),
        _ => &[],
    };
    let [Value::Int(granted), Value::Int(full_in), Value::Int(wait)] = ints else {
        return Err("the answer has another shape".to_owned());
    };
    let nanos = |micros: i64| u64::try_from(micros).unwrap_or(0).saturating_mul(1000);
    Ok(Answer {
        granted: u32::try_from(*granted).unwrap_or(0),
        full_in: nanos(*full_in),
        wait: nanos(*wait),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds() {
        assert_eq!(
            [0, 5, 1_000, 333_333_334].map(micros),
            ["0.000", "0.005", "1.000", "333333.334"]
        );
    }

    #[test]
    fn an_answer_of_another_shape_is_a_fault_and_no_grant() {
        let ints = |ints: &[i64]| Value::Array(ints.iter().copied().map(Value::Int).collect());
        let answer = counted(ints(&[3, 20, 0])).unwrap();
        assert_eq!(
            (answer.granted, answer.full_in, answer.wait),
            (3, 20_000, 0)
        );
        for wrong in [ints(&[3]), Value::Nil, Value::Okay, ints(&[])] {
            assert!(counted(wrong).is_err());
        }
        let wrong_type = Value::BulkString(b"WRONGTYPE".to_vec());
        assert_eq!(counted(wrong_type), Err("WRONGTYPE".to_owned()));
    }
}
