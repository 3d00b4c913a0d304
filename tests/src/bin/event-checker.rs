//! The long run of the checker of events; see `tests/README.md`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use intellirouter_tests::checker::analysis::check;
use intellirouter_tests::checker::cluster::{Retain, Store};
use intellirouter_tests::checker::report::{explain, numbers};
use intellirouter_tests::checker::run::{Settings, run};

const USAGE: &str = "event-checker [--minutes N] [--seed N] [--round-seconds N] [--round N]\n  \
    [--store memory|redis|disk|sentinel] [--retain plenty|small|brief]\n\
    --round   only this round of the seed, such as one that failed\n\
    --store   in every round; else one round after the other has another\n\
    --retain  the same, for how much the store keeps";

struct Options {
    minutes: u64,
    seed: u64,
    seconds: u64,
    round: Option<u64>,
    store: Option<Store>,
    retain: Option<Retain>,
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    println!("seed {}", options.seed);
    println!(
        "round store       retain loss   acked failed unknown delivered reconnects slow faults  gaps trimmed verdict"
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
    let store = options.store.unwrap_or(match round % 12 {
        6 => Store::Memory,
        3 | 5 => Store::RedisOnDisk,
        2 | 7 | 11 => Store::Sentinel,
        _ => Store::Redis,
    });
    let retain = options.retain.unwrap_or(match round % 5 {
        3 => Retain::Small,
        4 => Retain::Brief,
        _ => Retain::Plenty,
    });
    let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(round);
    let length = Duration::from_secs(options.seconds);
    let settings = Settings {
        retain,
        ..Settings::new(seed, length, store, round % 2 == 1)
    };
    let history = run(&settings);
    let (found, numbers) = (check(&history), numbers(&history));
    let (acknowledged, failed, unknown) = numbers.publishes;
    println!(
        "{round:5} {:11} {:6} {:5} {acknowledged:6} {failed:6} {unknown:7} {:9} {:10} {:4} {:6} {:5} {:7} {}",
        format!("{store:?}"),
        format!("{retain:?}"),
        if settings.harmful { "yes" } else { "no" },
        numbers.deliveries,
        numbers.reconnects,
        numbers.slow,
        numbers.faults,
        numbers.gaps,
        numbers.trimmed,
        if found.is_empty() { "good" } else { "BAD" },
    );
    if !found.is_empty() {
        println!("{}", explain(&settings, &history, &found));
        let Options { seed, seconds, .. } = options;
        let (store, retain) = (name(&STORES, store), name(&RETAINS, retain));
        println!(
            "again: event-checker --seed {seed} --round-seconds {seconds} --round {round} \
             --store {store} --retain {retain}"
        );
    }
    found.is_empty()
}

const STORES: [(&str, Store); 4] = [
    ("memory", Store::Memory),
    ("redis", Store::Redis),
    ("disk", Store::RedisOnDisk),
    ("sentinel", Store::Sentinel),
];
const RETAINS: [(&str, Retain); 3] = [
    ("plenty", Retain::Plenty),
    ("small", Retain::Small),
    ("brief", Retain::Brief),
];

/// What a word stands for.
fn meant<T: Copy>(all: &[(&str, T)], word: &str) -> Option<T> {
    all.iter()
        .find(|(name, _)| *name == word)
        .map(|(_, one)| *one)
}

fn name<T: PartialEq>(all: &[(&'static str, T)], wanted: T) -> &'static str {
    let found = all.iter().find(|(_, one)| *one == wanted);
    found.map_or("?", |(name, _)| name)
}

fn options() -> Option<Options> {
    let mut options = Options {
        minutes: 60,
        seed: 1,
        seconds: 60,
        round: None,
        store: None,
        retain: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        let number = value.parse();
        match word.as_str() {
            "--minutes" => options.minutes = number.ok()?,
            "--seed" => options.seed = number.ok()?,
            "--round-seconds" => options.seconds = number.ok()?,
            "--round" => options.round = Some(number.ok()?),
            "--store" => options.store = Some(meant(&STORES, &value)?),
            "--retain" => options.retain = Some(meant(&RETAINS, &value)?),
            _ => return None,
        }
    }
    Some(options)
}
