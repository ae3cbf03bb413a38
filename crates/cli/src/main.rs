//! `offramp`: what people type.

mod apps;
mod arguments;
mod demo;
mod dns;
mod doctor;
mod explain;
mod failure;
mod flows;
mod leaktest;
mod output;
mod profile;
mod run;
mod status;
mod switch;
mod uninstall;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use offramp_control::Client;

use crate::arguments::{Arguments, Command};
use crate::failure::{FAILED, Failure, USAGE};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match perform(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                eprintln!("{text}");
            }
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version are successes; anything else is a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}

fn perform(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { socket, command } = arguments;
    match command {
        // No runtime here: the launcher has one single thread.
        Command::Run(run) => Err(run::run(&socket, run)),
        Command::LeaktestDoors(doors) => leaktest::attempt::run(&doors),
        Command::DemoEnter(enter) => Err(demo::enter::run(enter)),
        Command::DemoOrigin { listen } => demo::origin::serve(listen),
        command => in_runtime(command, &Client::new(socket)),
    }
}

fn in_runtime(command: Command, client: &Client) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FAILED, format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Status(status) => status::run(client, status).await,
            Command::Flows(flows) => flows::run(client, flows).await,
            Command::Dns(dns) => dns::run(client, dns).await,
            Command::Apps(json) => apps::run(client, json).await,
            Command::Explain(explain) => explain::run(client, explain).await,
            Command::Doctor(json) => doctor::run(client, json).await,
            Command::Profile(profile) => profile::run(client, profile).await,
            Command::Off(switch) => switch::run(client, switch, false).await,
            Command::On(switch) => switch::run(client, switch, true).await,
            Command::Uninstall => uninstall::run(client.socket()).await,
            Command::Demo(demo) => demo::run(demo.command).await,
            Command::Leaktest(leaktest) => leaktest::run(client, leaktest).await,
            Command::Run(_)
            | Command::LeaktestDoors(_)
            | Command::DemoEnter(_)
            | Command::DemoOrigin { .. } => unreachable!("done without a runtime"),
        }
    })
}
