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
    pub(super) const ALL: [Family; 9] = [
        Family::Python,
        Family::Shell,
        Family::Perl,
        Family::Ruby,
        Family::Node,
        Family::Php,
        Family::Lua,
        Family::Tcl,
        Family::R,
    ];

    /// The family of an executable, by its name.
    pub(in crate::facts) fn of_program(name: &str) -> Option<Self> {
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
        }
    }

    /// What may be left off the name of a script.
    pub(super) fn default_extension(self) -> Option<&'static str> {
        (self == Family::Node).then_some(".js")
    }

    /// The script among the arguments behind the name of the program; None where they say otherwise
    /// what is to be run.
    pub(in crate::facts) fn script(self, arguments: &[String]) -> Option<&str> {
        let options = self.options();
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            let is_name = |name: &&str| argument.split('=').next() == Some(*name);
            match argument {
                "--" => return arguments.next(),
                "-" if self == Family::Shell => return arguments.next(),
                "-" => return None,
                _ if options.long_none.iter().any(is_name) => return None,
                _ if options.long_value.contains(&argument) => {
                    arguments.next();
                    continue;
                }
                _ => {}
            }
            if let Some(file) = argument.strip_prefix("--file=")
                && self == Family::R
            {
                return Some(file);
            }
            if argument.starts_with("--") {
                continue;
            }
            let plus = argument.strip_prefix('+').filter(|_| self == Family::Shell);
            let Some(letters) = argument.strip_prefix('-').or(plus) else {
                return Some(argument);
            };
            match options.read(letters) {
                Meaning::Nothing => {}
                Meaning::NoFile => return None,
                Meaning::Script("") => return arguments.next(),
                Meaning::Script(file) => return Some(file),
                Meaning::TakesNext => {
                    arguments.next();
                }
            }
        }
        None
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
        }
    }
}

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
    }

    #[test]
    fn interpreters_by_name() {
        assert_eq!(Family::of_program("python3.13"), Some(Family::Python));
        assert_eq!(Family::of_program("perl5.36.0"), Some(Family::Perl));
        assert_eq!(Family::of_program("lua-5.4"), Some(Family::Lua));
        for other in [
            "ssh",
            "shred",
            "rubycon",
            "nodemon",
            "pythonista",
            "bashful",
        ] {
            assert_eq!(Family::of_program(other), None, "{other}");
        }
        assert_eq!(Family::of_script("a.b.py"), Some(Family::Python));
        assert_eq!(Family::of_script("py"), None);
    }
}
