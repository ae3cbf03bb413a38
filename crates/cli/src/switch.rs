//! `offramp off` and `offramp on`.

use offramp_control::{Client, SwitchRequest};

use crate::arguments::Switch;
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(client: &Client, arguments: Switch, on: bool) -> Result<(), Failure> {
    let answer = client
        .switch(&SwitchRequest {
            profile: arguments.profile(),
            on,
        })
        .await?;
    let word = if on { "on" } else { "off" };
    if answer.changed.is_empty() {
        return output::print(&format!(
            "Nothing changed: no profile that you may switch was {}.\n",
            if on { "off" } else { "on" }
        ));
    }
    for identifier in &answer.changed {
        output::print(&format!("{} is {word}.\n", output::clean(identifier)))?;
    }
    Ok(())
}
