//! The long run of the checker of events; see `tests/README.md`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use intellirouter_tests::checker::analysis::check;
use intellirouter_tests::checker::cluster::Store;
use intellirouter_tests::checker::report::{explain, numbers};
use intellirouter_tests::checker::run::{Settings, run};

const USAGE: &str = "event-checker [--minutes N] [--seed N] [--round-seconds N] [--round N]\n\
    --round  only this round of the seed, such as one that failed";

struct Options {
    minutes: u64,
    seed: u64,
    seconds: u64,
    round: Option<u64>,
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    println!("seed {}", options.seed);
    println!(
        "round store       loss   acked failed unknown delivered reconnects faults  gaps verdict"
    );
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    for round in options.round.unwrap_or(0).. {
        if !good(&options, round) {
            return ExitCode::FAILURE;
        }
        if options.round.is_some() || Instant::now() >= end {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// Runs a round; prints its line, and what is wrong with it.
fn good(options: &Options, round: u64) -> bool {
    let store = match round % 8 {
        6 => Store::Memory,
        3 | 5 => Store::RedisOnDisk,
        _ => Store::Redis,
    };
    let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(round);
    let length = Duration::from_secs(options.seconds);
    let settings = Settings::new(seed, length, store, round % 2 == 1);
    let history = run(&settings);
    let (found, numbers) = (check(&history), numbers(&history));
    let (acknowledged, failed, unknown) = numbers.publishes;
    println!(
        "{round:5} {:11} {:5} {acknowledged:6} {failed:6} {unknown:7} {:9} {:10} {:6} {:5} {}",
        format!("{store:?}"),
        if settings.harmful { "yes" } else { "no" },
        numbers.deliveries,
        numbers.reconnects,
        numbers.faults,
        numbers.gaps,
        if found.is_empty() { "good" } else { "BAD" },
    );
    if !found.is_empty() {
        println!("{}", explain(&settings, &history, &found));
        let Options { seed, seconds, .. } = options;
        println!("again: event-checker --seed {seed} --round-seconds {seconds} --round {round}");
    }
    found.is_empty()
}

fn options() -> Option<Options> {
    let mut options = Options {
        minutes: 60,
        seed: 1,
        seconds: 60,
        round: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?.parse().ok()?;
        match word.as_str() {
            "--minutes" => options.minutes = value,
            "--seed" => options.seed = value,
            "--round-seconds" => options.seconds = value,
            "--round" => options.round = Some(value),
            _ => return None,
        }
    }
    Some(options)
}
