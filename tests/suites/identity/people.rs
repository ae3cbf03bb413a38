//! Conditions: whose process, which file, which tools of an app, which names.

use offramp_tests::Case;
use offramp_tests::Expected::{Direct, Managed};

pub(crate) const CASES: [Case; 11] = [
    Case {
        label: "user by name",
        rules: &[r#"{"SigningIdentifier": "exe:$name", "User": "nobody"}"#],
        before: "cp $first $dir/$name; cp $first $dir/other",
        starts: &[
            ("that user", "as_nobody $dir/$name", Managed),
            ("root", "$dir/$name", Direct),
            (
                "another program of that user",
                "as_nobody $dir/other",
                Direct,
            ),
        ],
    },
    Case {
        label: "user by number",
        rules: &[r#"{"SigningIdentifier": "exe:$name", "User": "65534"}"#],
        before: "cp $first $dir/$name",
        starts: &[
            ("that user", "as_nobody $dir/$name", Managed),
            ("root", "$dir/$name", Direct),
            ("another user", "setpriv --reuid=65533 $dir/$name", Direct),
        ],
    },
    Case {
        label: "range of users",
        rules: &[r#"{"SigningIdentifier": "exe:$name", "User": "1000-1999"}"#],
        before: "cp $first $dir/$name",
        starts: &[
            ("the first", "setpriv --reuid=1000 $dir/$name", Managed),
            ("the last", "setpriv --reuid=1999 $dir/$name", Managed),
            ("one before", "setpriv --reuid=999 $dir/$name", Direct),
            ("one behind", "setpriv --reuid=2000 $dir/$name", Direct),
        ],
    },
    Case {
        label: "group",
        rules: &[r#"{"SigningIdentifier": "exe:$name", "User": "@nogroup"}"#],
        before: "cp $first $dir/$name",
        starts: &[
            ("its primary group", "as_nobody $dir/$name", Managed),
            (
                "one of its groups",
                "setpriv --reuid=1000 --regid=1000 --groups=1000,65534 $dir/$name",
                Managed,
            ),
            (
                "no group",
                "setpriv --reuid=1000 --regid=1000 --clear-groups $dir/$name",
                Direct,
            ),
        ],
    },
    Case {
        label: "setuid",
        rules: &[
            r#"{"SigningIdentifier": "exe:$name", "User": "nobody"}"#,
            r#"{"SigningIdentifier": "exe:$name-root", "User": "root"}"#,
            r#"{"SigningIdentifier": "exe:$name-any"}"#,
        ],
        before: "for p in $name $name-root $name-any; do
            cp $first $dir/$p; chmod 4755 $dir/$p; done",
        starts: &[
            ("the real user counts", "as_nobody $dir/$name", Managed),
            (
                "the file's user does not",
                "as_nobody $dir/$name-root",
                Direct,
            ),
            ("the real user is root", "$dir/$name-root", Managed),
            ("any user", "as_nobody $dir/$name-any", Managed),
            ("root, but another user is named", "$dir/$name", Direct),
        ],
    },
    Case {
        label: "hash",
        rules: &[
            r#"{"SigningIdentifier": "exe:$name", "DesignatedRequirement": "sha256 = \"$sha\""}"#,
            r#"{"SigningIdentifier": "exe:$name-not",
                "DesignatedRequirement": "not sha256 = \"$sha\""}"#,
        ],
        before: "mkdir $dir/b; cp $first $dir/$name; cp $first $dir/b/$name; echo >>$dir/b/$name
            cp $first $dir/$name-not; cp $dir/b/$name $dir/b/$name-not",
        starts: &[
            ("that content", "$dir/$name", Managed),
            ("other content", "$dir/b/$name", Direct),
            ("content that is not to be", "$dir/$name-not", Direct),
            (
                "other content than is not to be",
                "$dir/b/$name-not",
                Managed,
            ),
            (
                "changed in place",
                "cp $first $dir/b/$name; $dir/b/$name",
                Managed,
            ),
            (
                "changed back in place",
                "echo >>$dir/b/$name; $dir/b/$name; $dir/b/$name",
                Direct,
            ),
        ],
    },
    Case {
        label: "owner",
        rules: &[r#"{"SigningIdentifier": "exe:$name",
                "DesignatedRequirement": "owner = \"root\" or owner = \"1234\""}"#],
        before: "for d in a b c; do mkdir $dir/$d; cp $first $dir/$d/$name; done
            chown 1234 $dir/b/$name; chown 4321 $dir/c/$name",
        starts: &[
            ("root's", "$dir/a/$name", Managed),
            ("root's, by another", "as_nobody $dir/a/$name", Managed),
            ("by number", "$dir/b/$name", Managed),
            ("another's", "$dir/c/$name", Direct),
            (
                "given away",
                "chown 4321 $dir/a/$name; $dir/a/$name",
                Direct,
            ),
        ],
    },
    Case {
        label: "tools",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/app",
                "MatchTools": [{"SigningIdentifier": "exe:$name"}]}"#],
        before: "cp /bin/bash $dir/app; cp $first $dir/$name; cp $first $dir/other",
        starts: &[
            (
                "a tool of the app",
                "$dir/app -c '$dir/$name; true'",
                Managed,
            ),
            (
                "in place of the app",
                "$dir/app -c 'exec $dir/$name'",
                Managed,
            ),
            (
                "below another program",
                "$dir/app -c 'sh -c \"$dir/$name; true\"; true'",
                Managed,
            ),
            ("the tool alone", "$dir/$name", Direct),
            ("below another shell", "sh -c '$dir/$name; true'", Direct),
            ("the app itself", "$dir/app -c '$bash'", Direct),
            (
                "another program of the app",
                "$dir/app -c '$dir/other; true'",
                Direct,
            ),
        ],
    },
    Case {
        label: "domains",
        rules: &[r#"{"SigningIdentifier": "exe:$name", "MatchDomains": ["wild.test"]}"#],
        before: "cp $(command -v curl) $dir/$name",
        starts: &[
            ("a name", "$dir/$name -sS http://wild.test/", Managed),
            (
                "a name below it",
                "$dir/$name -sS http://a.wild.test/",
                Managed,
            ),
            ("another name", "$dir/$name -sS http://v4.test/", Direct),
            ("another program", "curl -sS http://wild.test/", Direct),
            ("an address", "$dir/$name -sS http://203.0.113.13/", Direct),
        ],
    },
    Case {
        label: "wrapper",
        rules: &[r#"{"SigningIdentifier": "exe:$name"}"#],
        before: "cp $first $dir/other; cp $first $dir/$name",
        starts: &[
            ("what it runs", "$run $dir/other", Managed),
            ("what that starts", "$run sh -c '$dir/other; true'", Managed),
            ("an app of a rule, too", "$run $dir/$name", Managed),
            ("nothing else", "$dir/other", Direct),
        ],
    },
    Case {
        label: "everything has to be true",
        rules: &[
            r#"{"SigningIdentifier": "exe:$name", "Path": "$dir/$name", "User": "nobody",
                "DesignatedRequirement": "owner = \"root\" and sha256 = \"$sha\""}"#,
        ],
        before: "mkdir $dir/b; cp $first $dir/$name; cp $first $dir/b/$name",
        starts: &[
            ("all of it", "as_nobody $dir/$name", Managed),
            ("another place", "as_nobody $dir/b/$name", Direct),
            ("another user", "$dir/$name", Direct),
        ],
    },
];
