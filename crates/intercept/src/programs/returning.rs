//! The program at the ingress of the pair's end in the host, which may be another device tomorrow.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libbpf_rs::libbpf_sys;

use super::{LoadError, pin_as};

const NAME: &str = "on_return";

/// Marks what comes out of the device.
pub(crate) struct Returning {
    pub(super) program: OwnedFd,
    pub(super) pins: PathBuf,
}

impl Returning {
    /// Attaches it to this device, and lets go of where it was pinned after that.
    pub(crate) fn attach(&self, device: u32) -> Result<(), LoadError> {
        pin_as(&self.pins, NAME, |fresh| {
            let link = self.link(device).map_err(|source| LoadError::Attach {
                program: NAME.to_owned(),
                source: source.into(),
            })?;
            pin(&link, fresh).map_err(|source| LoadError::Pins {
                path: self.pins.join(NAME),
                source,
            })
        })
    }

    /// libbpf-rs has no call for this one yet (Linux 6.6).
    #[expect(unsafe_code, reason = "calls into libbpf")]
    fn link(&self, device: u32) -> io::Result<OwnedFd> {
        let device = i32::try_from(device).expect("the kernel's indexes are positive ints");
        // SAFETY: no options are given, which libbpf allows; the kernel checks the rest.
        let link = unsafe {
            libbpf_sys::bpf_link_create(
                self.program.as_raw_fd(),
                device,
                libbpf_sys::BPF_TCX_INGRESS,
                std::ptr::null(),
            )
        };
        if link < 0 {
            return Err(io::Error::from_raw_os_error(-link));
        }
        // SAFETY: the kernel has just made it and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(link) })
    }
}

#[expect(unsafe_code, reason = "calls into libbpf")]
fn pin(link: &OwnedFd, path: &std::path::Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero and is not kept.
    match unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
