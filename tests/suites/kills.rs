//! The daemon is killed at any moment: what is managed never goes out directly, nobody else notices
//! anything, and whoever starts next adopts or repairs what is there.

#[path = "kills/apps.rs"]
mod apps;
#[path = "kills/cuts.rs"]
mod cuts;
#[path = "kills/traffic.rs"]
mod traffic;
#[path = "kills/world.rs"]
mod world;

use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::{Gateway, Lab, Running};

use apps::Reach;
use cuts::Cut;
use traffic::left;
use world::{Chance, World};

/// Kills in a test run; `OFFRAMP_KILLS` asks for others.
const KILLS: usize = 60;
/// So often it is looked whether all works again.
const INSPECTION: usize = 20;

/// Cuts of each kind in a test run.
const CUTS: u64 = 5;

/// What the daemon does when it is killed.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Start,
    Load,
    Reload,
    Stop,
}

const PHASES: [Phase; 4] = [Phase::Start, Phase::Load, Phase::Reload, Phase::Stop];

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn at_random_moments() {
    let kills = wanted().unwrap_or(KILLS);
    let mut chance = Chance::new();
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = left(&lab);
    let mut world = World::new(&lab);
    let start = world.start_whole();
    let traffic = world.begin_traffic();
    world.kill();
    for number in 0..kills {
        let phase = PHASES[chance.below(PHASES.len() as u64) as usize];
        let mut daemon = Running::start(world.daemon.command());
        match phase {
            Phase::Start => chance.wait(start),
            Phase::Load => {
                world.wait_for_socket(&mut daemon);
                chance.wait(Duration::from_millis(400));
            }
            Phase::Reload => {
                world.wait_for_socket(&mut daemon);
                let installing = world.change(&mut chance, &daemon);
                chance.wait(Duration::from_millis(300));
                daemon.signal(Signal::SIGKILL);
                drop(installing);
            }
            Phase::Stop => {
                world.wait_for_socket(&mut daemon);
                chance.wait(Duration::from_millis(100));
                daemon.signal(Signal::SIGTERM);
                chance.wait(Duration::from_millis(300));
            }
        }
        drop(daemon);
        if number % INSPECTION == INSPECTION - 1 {
            world.start_whole();
            world.inspect();
            world.kill();
        }
    }
    world.start_whole();
    world.inspect();
    eprintln!("{kills} kills, seed {}: {}", chance.seed, traffic.end(&lab));
    world.end();
    assert_eq!(left(&lab), before);
}

/// A start where nothing was there before, cut at each of its steps, and then uninstalled.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn at_each_step_of_a_first_start() {
    let mut chance = Chance::new();
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = left(&lab);
    let world = World::new(&lab);
    let neighbours = world.begin_neighbours();
    let cuts = Cut::walk(&mut chance, CUTS, wanted().is_some(), |cut| {
        let is_cut = cut.start(&world);
        world.uninstall();
        assert_eq!(left(&lab), before, "{cut:?}");
        is_cut
    });
    eprintln!(
        "{cuts} cuts, seed {}: {}",
        chance.seed,
        neighbours.end(&lab)
    );
}

/// A start over what an earlier run left, with apps that run, cut at each of its steps; and a stop
/// that leaves them refused.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn at_each_step_of_a_restart() {
    let mut chance = Chance::new();
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = left(&lab);
    let mut world = World::new(&lab);
    world.start_whole();
    let traffic = world.begin_traffic();
    world.kill();
    let cuts = Cut::walk(&mut chance, CUTS, wanted().is_some(), |cut| {
        cut.start(&world)
    });
    world.start_whole();
    world.inspect();
    eprintln!("{cuts} cuts, seed {}: {}", chance.seed, traffic.end(&lab));
    world.end();
    assert_eq!(left(&lab), before);
}

/// A stop that removes everything, cut at each of its steps; the next start takes up what is left.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn at_each_step_of_a_stop() {
    let mut chance = Chance::new();
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = left(&lab);
    let mut world = World::new(&lab);
    world.name_no_apps();
    let neighbours = world.begin_neighbours();
    let cuts = Cut::walk(&mut chance, CUTS, wanted().is_some(), |cut| {
        world.start_whole();
        cut.stop(&mut world)
    });
    world.start_whole();
    world.inspect();
    world.end();
    assert_eq!(left(&lab), before);
    eprintln!(
        "{cuts} cuts, seed {}: {}",
        chance.seed,
        neighbours.end(&lab)
    );
}

/// `offramp uninstall` beside an app that runs on, cut at each of its steps: the app is refused
/// everything or free.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn at_each_step_of_an_uninstall() {
    let mut chance = Chance::new();
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = left(&lab);
    let mut world = World::new(&lab);
    world.name_no_apps();
    let neighbours = world.begin_neighbours();
    let mut app = None;
    let cuts = Cut::walk(&mut chance, CUTS, wanted().is_some(), |cut| {
        world.start_whole();
        let app = app.insert(world.begin_app());
        assert_eq!(app.ask(&lab), Reach::Gateway);
        world.kill();
        assert_eq!(app.ask(&lab), Reach::Nowhere);
        let is_cut = cut.uninstall(&mut world);
        // Half of it would be a way out for some of what the app does.
        let reach = app.ask(&lab);
        assert!(reach != Reach::Mixed, "{cut:?}");
        if !is_cut {
            assert_eq!(reach, Reach::Direct);
        }
        world.uninstall();
        assert_eq!(left(&lab), before, "{cut:?}");
        assert_eq!(app.ask(&lab), Reach::Direct, "{cut:?}");
        is_cut
    });
    eprintln!(
        "{cuts} cuts, seed {}: {}",
        chance.seed,
        neighbours.end(&lab)
    );
}

/// What starts while there is no daemon is what the next one finds it to be, also where it has been
/// other programs before.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn programs_that_start_meanwhile() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut world = World::new(&lab);
    world.start_whole();
    let mut waiting = world.begin_successions();
    world.kill();
    for (_, succession, _) in &mut waiting {
        succession.go_on();
    }
    world.start_whole();
    world.inspect();
    for (label, succession, peer) in &mut waiting {
        assert_eq!(succession.open(), *peer, "{label}");
    }
}

/// How many kills the person who runs this asks for; then every step is cut, too.
fn wanted() -> Option<usize> {
    let wanted = std::env::var("OFFRAMP_KILLS").ok()?;
    Some(wanted.parse().expect("OFFRAMP_KILLS is a number"))
}
