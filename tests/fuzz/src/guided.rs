//! The run of `scripts/fuzz`: libFuzzer, guided by coverage.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use crate::{MOST, held};

type Target = Box<dyn Fn(&[u8])>;

thread_local! {
    static TARGET: RefCell<Option<Target>> = const { RefCell::new(None) };
}

#[expect(unsafe_code, reason = "libFuzzer is C++")]
unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        count: *mut c_int,
        arguments: *mut *mut *mut c_char,
        call: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

#[expect(unsafe_code, reason = "libFuzzer is C++")]
extern "C" fn call(data: *const u8, length: usize) -> c_int {
    let input = match length {
        0 => &[],
        // SAFETY: libFuzzer has this many bytes there for the time of the call.
        _ => unsafe { std::slice::from_raw_parts(data, length) },
    };
    let called = catch_unwind(AssertUnwindSafe(|| {
        TARGET.with_borrow(|target| held(target.as_ref().expect("set before the run"), input));
    }));
    if called.is_err() {
        // libFuzzer keeps the input.
        std::process::abort();
    }
    0
}

#[expect(
    unsafe_code,
    reason = "libFuzzer is C++, and so is what lives as long as its run"
)]
pub(crate) fn run(name: &str, inputs: &[Vec<u8>], target: impl Fn(&[u8])) {
    let work = PathBuf::from(std::env::var_os("OFFRAMP_FUZZ").expect("started by scripts/fuzz"));
    let corpus = work.join("corpus").join(name);
    std::fs::create_dir_all(&corpus).expect("the folder can be written");
    for (number, input) in inputs.iter().enumerate() {
        let file = corpus.join(format!("seed-{number}"));
        std::fs::write(file, input).expect("the folder can be written");
    }
    let target: Box<dyn Fn(&[u8]) + '_> = Box::new(target);
    // SAFETY: the process ends with the run, so that nothing sees the target after its end.
    let target = unsafe { std::mem::transmute::<Box<dyn Fn(&[u8]) + '_>, Target>(target) };
    TARGET.set(Some(target));
    let seconds = std::env::var("OFFRAMP_FUZZ_SECONDS").unwrap_or_else(|_| "60".to_owned());
    let arguments = [
        name.to_owned(),
        format!("-max_len={MOST}"),
        format!("-max_total_time={seconds}"),
        "-timeout=20".to_owned(),
        "-rss_limit_mb=2048".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
        format!("-artifact_prefix={}/{name}-", work.display()),
        corpus.display().to_string(),
    ];
    let arguments = arguments.map(|text| CString::new(text).expect("no zeros in paths"));
    let mut pointers: Vec<_> = arguments
        .iter()
        .map(|text| text.as_ptr().cast_mut())
        .collect();
    let mut count = pointers.len() as c_int;
    pointers.push(std::ptr::null_mut());
    let mut pointers = pointers.as_mut_ptr();
    // SAFETY: as many arguments as counted, which live until the run has ended.
    let status = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut pointers, call) };
    std::process::exit(status);
}
