//! Executables by their name.

use offramp_tests::Case;
use offramp_tests::Expected::{Direct, Managed};

pub(crate) const CASES: [Case; 2] = [
    Case {
        label: "name",
        rules: &[r#"{"SigningIdentifier": "exe:$name"}"#],
        before: "cp $first $dir/$name; cp $first $dir/other; mkdir $dir/b $dir/c $dir/d $dir/l
            cp $first $dir/b/$name; cp /bin/bash $dir/c/$name; cp /bin/bash $dir/bash",
        starts: &[
            ("in one place", "$dir/$name", Managed),
            ("in another place", "$dir/b/$name", Managed),
            (
                "new since the daemon started",
                "mkdir $dir/e; cp $first $dir/e/$name; $dir/e/$name",
                Managed,
            ),
            (
                "by a link of another name",
                "ln -s $name $dir/link; $dir/link",
                Managed,
            ),
            (
                "with another argv[0]",
                "$dir/c/$name -c 'exec -a other $dir/$name'",
                Managed,
            ),
            ("its child", "$dir/c/$name -c '$first; true'", Managed),
            (
                "its grandchild, orphaned",
                "$dir/c/$name -c '(sh -c \"$first; echo >$dir/orphan\" &) ; exit'
                 for i in $(seq 500); do test -e $dir/orphan && break; sleep 0.02; done",
                Managed,
            ),
            (
                "with another name of its thread",
                "$dir/c/$name -c 'echo other >/proc/$$/comm; $bash'",
                Managed,
            ),
            (
                "deleted while it runs",
                "cp /bin/bash $dir/d/$name; $dir/d/$name -c 'rm $dir/d/$name; $bash'",
                Managed,
            ),
            (
                "deleted before it is executed",
                "cp $first $dir/d/$name; exec 3<$dir/d/$name; rm $dir/d/$name; exec /proc/self/fd/3",
                Managed,
            ),
            ("another name", "$dir/other", Direct),
            (
                "a longer name",
                "cp $first $dir/x$name; $dir/x$name",
                Direct,
            ),
            (
                "with an ending",
                "cp $first $dir/$name.bak; $dir/$name.bak",
                Direct,
            ),
            (
                "the name as argv[0] alone",
                "$dir/bash -c 'exec -a $name $dir/other'",
                Direct,
            ),
            (
                "the name as an argument alone",
                "$dir/bash -c '$bash' $dir/$name",
                Direct,
            ),
            (
                "the name of a thread alone",
                "$dir/bash -c 'echo $name >/proc/$$/comm; $bash'",
                Direct,
            ),
            (
                "the name as a directory alone",
                "mkdir -p $dir/f/$name; cp $first $dir/f/$name/other; $dir/f/$name/other",
                Direct,
            ),
            (
                "a link of the name to another program",
                "ln -s ../other $dir/l/$name; $dir/l/$name",
                Direct,
            ),
        ],
    },
    Case {
        label: "memory",
        rules: &[r#"{"SigningIdentifier": "exe:$name"}"#],
        before: "",
        starts: &[
            (
                "a program in memory with the name",
                r#"python3 -c 'import os; fd = os.memfd_create("$name", 0)
os.write(fd, open("$first", "rb").read()); os.execve(fd, ["$name"], {})'"#,
                Direct,
            ),
            (
                "a program in memory that an app starts",
                r#"cp /usr/bin/python3 $dir/$name; $dir/$name -c 'import os; fd = os.memfd_create("x", 0)
os.write(fd, open("$first", "rb").read()); os.execve(fd, ["x"], {})'"#,
                Managed,
            ),
        ],
    },
];

pub(crate) const PATTERNS: [Case; 2] = [
    Case {
        label: "pattern of a name",
        rules: &[r#"{"SigningIdentifier": "exe:$name-*"}"#],
        before: "",
        starts: &[
            ("like it", "cp $first $dir/$name-1; $dir/$name-1", Managed),
            (
                "new and like it",
                "mkdir $dir/b; cp $first $dir/b/$name-22; $dir/b/$name-22",
                Managed,
            ),
            ("not like it", "cp $first $dir/$name; $dir/$name", Direct),
            ("again not like it", "$dir/$name; $dir/$name", Direct),
            (
                "like it as argv[0] alone",
                "bash -c 'exec -a $name-1 $dir/$name'",
                Direct,
            ),
            ("no file of its own", "bash -c '$bash'", Direct),
        ],
    },
    Case {
        label: "pattern of a path",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/v?/**/run-*"}"#],
        before: "",
        starts: &[
            (
                "like it",
                "mkdir -p $dir/v1; cp $first $dir/v1/run-1; $dir/v1/run-1",
                Managed,
            ),
            (
                "deeper",
                "mkdir -p $dir/v2/a/b; cp $first $dir/v2/a/b/run-1; $dir/v2/a/b/run-1",
                Managed,
            ),
            (
                "elsewhere",
                "mkdir -p $dir/w1; cp $first $dir/w1/run-1; $dir/w1/run-1",
                Direct,
            ),
            (
                "another name",
                "cp $first $dir/v1/walk-1; $dir/v1/walk-1",
                Direct,
            ),
        ],
    },
];
