//! The channels that one subscriber reads.

use super::channel::ChannelName;
use super::pattern::ChannelPattern;

/// Patterns, with the verdict on the channel that was asked for last: most entries are on the channel
/// of the one before, and a ring keeps equal names as one, so that a look at an address is enough.
pub(super) struct Interest {
    patterns: Box<[ChannelPattern]>,
    last: Option<(ChannelName, bool)>,
}

impl Interest {
    pub(super) fn new(patterns: Vec<ChannelPattern>) -> Self {
        Self {
            patterns: patterns.into(),
            last: None,
        }
    }

    pub(super) fn patterns(&self) -> &[ChannelPattern] {
        &self.patterns
    }

    pub(super) fn means(&mut self, channel: &ChannelName) -> bool {
        if let Some((last, meant)) = &self.last
            && last.is_same(channel)
        {
            return *meant;
        }
        let meant = self.patterns.iter().any(|p| p.matches_name(channel));
        self.last = Some((channel.clone(), meant));
        meant
    }
}

/// Names that came lately, so that equal ones share one text. Keeps [`NAMES`] at most.
#[derive(Default)]
pub(super) struct Names(Vec<ChannelName>);

/// More than most platforms have; looked through once for each entry, not for each subscriber.
const NAMES: usize = 32;

impl Names {
    /// This name, with the text that an equal one has.
    pub(super) fn one(&mut self, name: ChannelName) -> ChannelName {
        if let Some(place) = self.0.iter().position(|known| *known == name) {
            // The busy ones come to stand in front.
            let better = place / 2;
            self.0.swap(place, better);
            return self.0[better].clone();
        }
        if self.0.len() == NAMES {
            self.0.pop();
        }
        self.0.push(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ChannelName {
        ChannelName::new("a", "b", &format!("c{n}"))
    }

    #[test]
    fn equal_names_are_one_as_long_as_one_is_kept() {
        let mut names = Names::default();
        let first = names.one(name(0));
        for n in 0..NAMES - 1 {
            names.one(name(n));
        }
        assert!(names.one(name(0)).is_same(&first));
        for n in 0..1000 {
            names.one(name(n));
            assert!(names.0.len() <= NAMES);
        }
    }

    #[test]
    fn a_verdict_is_that_of_the_channel_that_is_asked_for() {
        let pattern = ChannelPattern::parse("intellirouter:a:b:c1").unwrap();
        let mut interest = Interest::new(vec![pattern]);
        let (one, other) = (name(1), name(2));
        for _ in 0..2 {
            assert!(interest.means(&one));
            assert!(interest.means(&one));
            assert!(interest.means(&name(1)));
            assert!(!interest.means(&other));
            assert!(!interest.means(&other));
        }
    }
}
