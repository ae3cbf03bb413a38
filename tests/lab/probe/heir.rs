//! A new daemon that takes over only half-way.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Goes as far as `step`, prints what it heard last, and leaves.
pub(crate) fn heir(socket: &Path, step: &str) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let format = if step == "other" { 999 } else { 1 };
    match step {
        "nothing" => return Ok(()),
        "garbage" => stream.write_all(&[0xff; 64])?,
        _ => say(
            &mut stream,
            &format!(r#"{{"Hello":{{"format":{format},"drain":60}}}}"#),
        )?,
    }
    let mut heard = hear(&mut stream)?;
    if step == "state" {
        // The byte that descriptors come with.
        stream.read_exact(&mut [0])?;
        say(&mut stream, r#""Take""#)?;
        heard = hear(&mut stream)?;
    }
    println!("{}", heard.chars().take(200).collect::<String>());
    Ok(())
}

fn say(stream: &mut UnixStream, message: &str) -> io::Result<()> {
    let length = u32::try_from(message.len() + 1).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&[0])?;
    stream.write_all(message.as_bytes())
}

/// Nothing at the end.
fn hear(stream: &mut UnixStream) -> io::Result<String> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1])? == 0 {
        return Ok(String::new());
    }
    stream.read_exact(&mut length[1..])?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    Ok(String::from_utf8_lossy(&frame[1..]).into_owned())
}
