//! Programs that look names up without a pause, under the profile and beside it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, SystemTime};

use offramp_tests::{Running, wait_until};

use crate::stage::{DOMAIN, EXCLUDED, Ruled, Stage, ruling};

const LIMIT: Duration = Duration::from_secs(30);

/// What each of the programs is, and the words before the names.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("glibc", &["{dir}/ask"]),
    ("musl", &["{dir}/ask-musl"]),
    ("cares", &["node", "{dir}/ask.js"]),
];

/// How each of them is started.
const WAYS: [Way; 3] = [Way::Relayed, Way::Excluded, Way::Unmanaged];

/// Whose the names are that a program looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The profile's, which relays them.
    Relayed,
    /// The profile's, which excludes them.
    Excluded,
    /// Nobody's: the program is unmanaged.
    Unmanaged,
}

impl Way {
    fn ruled(self) -> Ruled {
        match self {
            Self::Relayed | Self::Excluded => Ruled::Managed,
            Self::Unmanaged => Ruled::Unmanaged,
        }
    }

    fn domain(self) -> &'static str {
        match self {
            Self::Relayed | Self::Unmanaged => DOMAIN,
            Self::Excluded => EXCLUDED,
        }
    }

    /// Whom the addresses have to be for.
    fn told(self) -> Ruled {
        match self {
            Self::Relayed => Ruled::Managed,
            Self::Excluded | Self::Unmanaged => Ruled::Unmanaged,
        }
    }
}

/// All these programs, each of them in all ways.
pub(crate) struct Crowd {
    streams: Vec<Stream>,
    gaps: Vec<RangeInclusive<u128>>,
}

struct Stream {
    prefix: String,
    way: Way,
    running: Running,
    input: ChildStdin,
}

impl Crowd {
    pub(crate) fn start(stage: &Stage<'_>) -> Self {
        let all = WAYS
            .into_iter()
            .flat_map(|way| PROGRAMS.map(|program| (way, program)));
        let streams = all.map(|(way, (label, line))| Stream::start(stage, way, label, line));
        Self {
            streams: streams.collect(),
            gaps: Vec::new(),
        }
    }

    /// Waits until each of them has got further answers.
    pub(crate) fn goes_on(&self) {
        let counts = || self.streams.iter().map(Stream::count);
        let before: Vec<usize> = counts().collect();
        wait_until("everybody looks names up", LIMIT, || {
            counts().zip(&before).all(|(now, before)| now > before + 3)
        });
    }

    /// Does what leaves all that is not relayed without a resolver for a moment.
    pub(crate) fn gap(&mut self, work: impl FnOnce()) {
        let begin = now();
        work();
        self.gaps.push(begin..=now());
        self.goes_on();
    }

    /// How the names begin that no resolver may hear.
    pub(crate) fn unheard(&self) -> impl Iterator<Item = &str> {
        let relayed = self
            .streams
            .iter()
            .filter(|stream| stream.way == Way::Relayed);
        relayed.map(|stream| stream.prefix.as_str())
    }

    /// Ends all of them; returns which answers were wrong, failures in a gap left out where there
    /// may be some, and for each program how many answers it got in all.
    pub(crate) fn end(self) -> (Vec<String>, Vec<(String, usize)>) {
        let mut wrong = Vec::new();
        let mut counts = Vec::new();
        for stream in self.streams {
            let (prefix, way) = (stream.prefix.clone(), stream.way);
            let answers = stream.end();
            counts.push((prefix, answers.len()));
            let in_gap = |answer: &Answer| {
                let mut gaps = self.gaps.iter();
                gaps.any(|gap| answer.begin <= *gap.end() && answer.end >= *gap.start())
            };
            let bad = |answer: &Answer| match answer.told {
                Some(told) => told != way.told(),
                None => way == Way::Relayed || !in_gap(answer),
            };
            wrong.extend(answers.into_iter().filter(bad).map(|answer| answer.line));
        }
        (wrong, counts)
    }
}

impl Stream {
    fn start(stage: &Stage<'_>, way: Way, label: &str, line: &[&str]) -> Self {
        let directory = stage.lab.directory().display().to_string();
        let fill = |word: &&str| word.replace("{dir}", &directory);
        let line: Vec<String> = line.iter().map(fill).collect();
        let prefix = format!("{way:?}-{label}").to_lowercase();
        let mut command = stage.command_of(&line[0], way.ruled());
        command.args(&line[1..]).args([&prefix, way.domain()]);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        Self {
            prefix,
            way,
            input: running.input(),
            running,
        }
    }

    fn count(&self) -> usize {
        self.running.said().matches('\n').count()
    }

    fn end(self) -> Vec<Answer> {
        drop(self.input);
        let said = self.running.finish(LIMIT).success();
        said.lines().map(Answer::read).collect()
    }
}

struct Answer {
    begin: u128,
    end: u128,
    /// Whom the address is for; nobody's in a failure.
    told: Option<Ruled>,
    line: String,
}

impl Answer {
    fn read(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut time = || words.next().and_then(|word| word.parse().ok());
        let (begin, end) = (time(), time());
        let address = words.nth(1).and_then(|word| word.parse::<IpAddr>().ok());
        Self {
            begin: begin.unwrap_or_else(|| panic!("{line}")),
            end: end.unwrap_or_else(|| panic!("{line}")),
            told: address.and_then(|address| ruling(&address)),
            line: line.to_owned(),
        }
    }
}

/// Milliseconds of the clock that the programs tell.
fn now() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("it is later than 1970").as_millis()
}
