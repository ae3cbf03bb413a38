//! The options of interpreters, as far as they tell which argument is the script.

/// Interpreters with the same options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::facts) enum Family {
    Python,
    Shell,
    Perl,
    Ruby,
    Node,
    Php,
    Lua,
    Tcl,
    R,
    /// What programs are linked with: it runs a program that it is given, as if that were started.
    Loader,
}

/// What arguments say about a script.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::facts) enum Found<'a> {
    /// This one, of these arguments.
    Script(&'a str, usize),
    /// They say otherwise what is to be run.
    Nothing,
    /// They end before they say it.
    End,
}

impl<'a> Found<'a> {
    fn of(next: Option<(usize, &'a str)>) -> Self {
        next.map_or(Self::End, |(at, script)| Self::Script(script, at))
    }
}

/// What the options of a family mean; the letters stand behind one dash.
struct Options {
    /// No file is run.
    none: &'static str,
    /// Takes a value: the rest of the argument, or the next one.
    value: &'static str,
    /// Takes the rest of the argument, which may be empty.
    rest: &'static str,
    /// Its value is the script.
    script: &'static str,
    /// Whole arguments with which no file is run.
    long_none: &'static [&'static str],
    /// Whole arguments that take the next one.
    long_value: &'static [&'static str],
}

impl Family {
    pub(super) const ALL: [Family; 10] = [
        Family::Python,
        Family::Shell,
        Family::Perl,
        Family::Ruby,
        Family::Node,
        Family::Php,
        Family::Lua,
        Family::Tcl,
        Family::R,
        Family::Loader,
    ];

    /// The family of an executable, by its name.
    pub(in crate::facts) fn of_program(name: &str) -> Option<Self> {
        if is_loader(name) {
            return Some(Family::Loader);
        }
        Self::ALL
            .into_iter()
            .find(|family| family.names().iter().any(|known| is_version(name, known)))
    }

    /// What runs a script of this name.
    pub(in crate::facts) fn of_script(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        Some(match extension {
            "py" | "pyw" | "pyz" => Family::Python,
            "sh" | "bash" | "zsh" | "ksh" => Family::Shell,
            "pl" => Family::Perl,
            "rb" => Family::Ruby,
            "js" | "mjs" | "cjs" => Family::Node,
            "php" | "phar" => Family::Php,
            "lua" => Family::Lua,
            "tcl" => Family::Tcl,
            "R" => Family::R,
            _ => return None,
        })
    }

    /// The names of these interpreters; a version may follow.
    pub(in crate::facts) fn names(self) -> &'static [&'static str] {
        match self {
            Family::Python => &["python", "pypy"],
            Family::Shell => &["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "rbash"],
            Family::Perl => &["perl"],
            Family::Ruby => &["ruby"],
            Family::Node => &["node", "nodejs"],
            Family::Php => &["php", "php-cgi"],
            Family::Lua => &["lua", "luajit"],
            Family::Tcl => &["tclsh", "wish", "expect"],
            Family::R => &["Rscript", "R"],
            Family::Loader => LOADERS,
        }
    }

    /// What may be left off the name of a script.
    pub(super) fn default_extension(self) -> Option<&'static str> {
        (self == Family::Node).then_some(".js")
    }

    /// The script among the arguments behind the name of the program; None where they say otherwise
    /// what is to be run.
    pub(in crate::facts) fn script(self, arguments: &[String]) -> Option<&str> {
        match self.find(arguments) {
            Found::Script(script, _) => Some(script),
            Found::Nothing | Found::End => None,
        }
    }

    /// What the arguments behind the name of the program say about the script.
    pub(in crate::facts) fn find(self, arguments: &[String]) -> Found<'_> {
        let options = self.options();
        let mut arguments = arguments.iter().map(String::as_str).enumerate();
        while let Some((at, argument)) = arguments.next() {
            let is_name = |name: &&str| argument.split('=').next() == Some(*name);
            match argument {
                "--" => return Found::of(arguments.next()),
                "-" if self == Family::Shell => return Found::of(arguments.next()),
                "-" => return Found::Nothing,
                _ if options.long_none.iter().any(is_name) => return Found::Nothing,
                _ if options.long_value.contains(&argument) => {
                    arguments.next();
                    continue;
                }
                _ => {}
            }
            if let Some(file) = argument.strip_prefix("--file=")
                && self == Family::R
            {
                return Found::Script(file, at);
            }
            if argument.starts_with("--") {
                continue;
            }
            let dash = argument.strip_prefix('-');
            let dash = dash.filter(|_| self != Family::Loader);
            let plus = argument.strip_prefix('+').filter(|_| self == Family::Shell);
            let Some(letters) = dash.or(plus) else {
                return Found::Script(argument, at);
            };
            match options.read(letters) {
                Meaning::Nothing => {}
                Meaning::NoFile => return Found::Nothing,
                Meaning::Script("") => return Found::of(arguments.next()),
                Meaning::Script(file) => return Found::Script(file, at),
                Meaning::TakesNext => {
                    arguments.next();
                }
            }
        }
        Found::End
    }

    fn options(self) -> Options {
        let none = Options {
            none: "",
            value: "",
            rest: "",
            script: "",
            long_none: &[],
            long_value: &[],
        };
        match self {
            Family::Python => Options {
                none: "cm",
                value: "WX",
                long_value: &["--check-hash-based-pycs"],
                ..none
            },
            Family::Shell => Options {
                none: "cs",
                value: "oO",
                long_value: &["--rcfile", "--init-file"],
                ..none
            },
            Family::Perl => Options {
                none: "eE",
                value: "I",
                rest: "MmixCDFVd",
                ..none
            },
            Family::Ruby => Options {
                none: "e",
                value: "IrCXE",
                rest: "FiTWxK",
                ..none
            },
            Family::Node => Options {
                none: "epi",
                value: "rC",
                long_none: &["--eval", "--print", "--interactive", "--run", "--test"],
                long_value: NODE_VALUES,
                ..none
            },
            Family::Php => Options {
                none: "rRBEmia",
                value: "cdtSz",
                script: "fF",
                ..none
            },
            Family::Lua => Options {
                value: "elj",
                rest: "bO",
                ..none
            },
            Family::Tcl => Options {
                value: "cdb",
                script: "f",
                long_value: &["-encoding"],
                ..none
            },
            Family::R => Options {
                none: "e",
                value: "g",
                script: "f",
                ..none
            },
            Family::Loader => Options {
                long_value: LOADER_VALUES,
                ..none
            },
        }
    }
}

/// Loaders by the names that programs have for them; `ld-linux*` and `ld-musl-*` besides.
const LOADERS: &[&str] = &[
    "ld.so",
    "ld64.so",
    "ld.so.1",
    "ld64.so.1",
    "ld64.so.2",
    "ld-linux.so.2",
    "ld-linux-x86-64.so.2",
    "ld-linux-x32.so.2",
    "ld-linux-aarch64.so.1",
    "ld-linux-armhf.so.3",
    "ld-linux-riscv64-lp64d.so.1",
    "ld-linux-loongarch-lp64d.so.1",
    "ld-musl-x86_64.so.1",
    "ld-musl-i386.so.1",
    "ld-musl-aarch64.so.1",
    "ld-musl-armhf.so.1",
    "ld-musl-riscv64.so.1",
];

const LOADER_VALUES: &[&str] = &[
    "--argv0",
    "--audit",
    "--glibc-hwcaps-mask",
    "--glibc-hwcaps-prepend",
    "--inhibit-rpath",
    "--library-path",
    "--preload",
];

const NODE_VALUES: &[&str] = &[
    "--conditions",
    "--diagnostic-dir",
    "--env-file",
    "--env-file-if-exists",
    "--experimental-loader",
    "--icu-data-dir",
    "--import",
    "--input-type",
    "--inspect-port",
    "--loader",
    "--openssl-config",
    "--redirect-warnings",
    "--require",
    "--title",
    "--watch-path",
];

/// What an argument with one dash means for what follows.
enum Meaning<'a> {
    Nothing,
    NoFile,
    Script(&'a str),
    TakesNext,
}

impl Options {
    fn read<'a>(&self, letters: &'a str) -> Meaning<'a> {
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            if self.none.contains(letter) {
                return Meaning::NoFile;
            }
            if self.script.contains(letter) {
                return Meaning::Script(rest);
            }
            if self.value.contains(letter) && rest.is_empty() {
                return Meaning::TakesNext;
            }
            if self.value.contains(letter) || self.rest.contains(letter) {
                return Meaning::Nothing;
            }
        }
        Meaning::Nothing
    }
}

/// Loaders have the machine, or a release, in their names.
fn is_loader(name: &str) -> bool {
    let release = name
        .strip_prefix("ld-")
        .and_then(|rest| rest.strip_suffix(".so"));
    name.starts_with("ld-linux")
        || name.starts_with("ld-musl-")
        || release.is_some_and(|release| is_version(release, ""))
        // So musl has it where the loader is a link.
        || name == "libc.so"
}

/// Whether `name` is `known`, with or without a version such as `3`, `3.11` or `-5.4`.
fn is_version(name: &str, known: &str) -> bool {
    name.strip_prefix(known).is_some_and(|rest| {
        let rest = rest.strip_prefix('-').unwrap_or(rest);
        rest.bytes()
            .all(|octet| octet.is_ascii_digit() || octet == b'.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_among_arguments() {
        let check = |line: &str, expected: Option<&str>| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let family = Family::of_program(&words[0]).expect("an interpreter");
            assert_eq!(family.script(&words[1..]), expected, "{line}");
        };
        check("python3 x.py -c", Some("x.py"));
        check("python3.11 -u -W ignore x.py", Some("x.py"));
        check("python3 -Wignore -Xdev x.py", Some("x.py"));
        check("python3 -Im http.server", None);
        check("python3 -c print()", None);
        check("python3 - x.py", None);
        check("python3", None);
        check("pypy3 -- -x.py", Some("-x.py"));
        check("sh -e x", Some("x"));
        check("bash -euo pipefail x", Some("x"));
        check("bash --rcfile y -x +e x", Some("x"));
        check("bash --norc -c x", None);
        check("sh -lc x", None);
        check("sh - x", Some("x"));
        check("dash -s x", None);
        check("perl -w -I lib -MFoo x", Some("x"));
        check("perl -lne 1 x", None);
        check("perl -pie x", Some("x"));
        check("ruby -rjson -I lib x.rb", Some("x.rb"));
        check("ruby -e 1", None);
        check("node --inspect x.js", Some("x.js"));
        check("node -r ./a --import b x.js", Some("x.js"));
        check("node --eval=1 x.js", None);
        check("nodejs -pe 1", None);
        check("php -d a=b -f x.php", Some("x.php"));
        check("php8.2 -r 1", None);
        check("lua5.4 -e 1 x.lua", Some("x.lua"));
        check("expect -f x", Some("x"));
        check("R --no-echo --file=x.R --args 1", Some("x.R"));
        check("Rscript -e 1", None);
        check("ld.so --argv0 x --library-path=y ./app -c", Some("./app"));
        check("ld-linux-x86-64.so.2 --preload x -x/app", Some("-x/app"));
        check("ld-musl-x86_64.so.1 --list -- app", Some("app"));
    }

    #[test]
    fn arguments_may_end_before_the_script() {
        let find = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            match Family::Python.find(&words) {
                Found::Script(_, at) => Some(Some(at)),
                Found::Nothing => Some(None),
                Found::End => None,
            }
        };
        assert_eq!(find(&["-W", "ignore", "x.py"]), Some(Some(2)));
        assert_eq!(find(&["-c"]), Some(None));
        for words in [&[][..], &["-W"], &["-W", "ignore"], &["-u"], &["--"]] {
            assert_eq!(find(words), None, "{words:?}");
        }
    }

    #[test]
    fn interpreters_by_name() {
        assert_eq!(Family::of_program("python3.13"), Some(Family::Python));
        assert_eq!(Family::of_program("perl5.36.0"), Some(Family::Perl));
        assert_eq!(Family::of_program("lua-5.4"), Some(Family::Lua));
        for loader in [
            "ld-linux-ia64.so.2",
            "ld-musl-s390x.so.1",
            "ld-2.31.so",
            "ld.so",
        ] {
            assert_eq!(Family::of_program(loader), Some(Family::Loader));
        }
        for other in [
            "ssh",
            "shred",
            "rubycon",
            "nodemon",
            "pythonista",
            "bashful",
            "ld",
            "ldd",
        ] {
            assert_eq!(Family::of_program(other), None, "{other}");
        }
        assert_eq!(Family::of_script("a.b.py"), Some(Family::Python));
        assert_eq!(Family::of_script("py"), None);
    }
}
