//! Control groups as systemd, Flatpak, Snap and desktops name them, and what stands in for the
//! programs that make them. All of it is simulated: groups and files are made by the test.

use offramp_tests::Case;
use offramp_tests::Expected::{Direct, Managed, ManagedInTheEnd};

pub(crate) const CASES: [Case; 10] = [
    Case {
        label: "unit",
        rules: &[r#"{"SigningIdentifier": "unit:$name.service"}"#],
        before: "",
        starts: &[
            (
                "in it",
                "in_group /system.slice/$name.service $first",
                Managed,
            ),
            (
                "below it",
                "in_group /system.slice/$name.service/worker $first",
                Managed,
            ),
            (
                "the first of its kind again",
                "in_group /system.slice/$name.service $first",
                Managed,
            ),
            (
                "another kind",
                "in_group /system.slice/$name.scope $first",
                Direct,
            ),
            (
                "a longer name",
                "in_group /system.slice/x$name.service $first",
                Direct,
            ),
            (
                "an instance",
                "in_group /system.slice/$name@1.service $first",
                Direct,
            ),
            (
                "one that a user named so",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/$name.service $first",
                Direct,
            ),
            ("none", "$first", Direct),
            (
                "moved into it",
                "bash -c 'mkdir -p $0; echo $$ >$0/cgroup.procs
                    for i in $(seq 100); do $bash
                        case $said in 10.90.2.*) exit;; esac; sleep 0.05; done' \
                 $cg/system.slice/$name.service/moved",
                ManagedInTheEnd,
            ),
        ],
    },
    Case {
        label: "template of units",
        rules: &[r#"{"SigningIdentifier": "unit:$name@*"}"#],
        before: "",
        starts: &[
            (
                "an instance",
                "in_group /system.slice/system-$name.slice/$name@1.service $first",
                Managed,
            ),
            (
                "no instance",
                "in_group /system.slice/$name.service $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "unit of a user",
        rules: &[r#"{"SigningIdentifier": "user-unit:$name.service"}"#],
        before: "",
        starts: &[
            (
                "in it",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/$name.service $first",
                Managed,
            ),
            (
                "one of the system",
                "in_group /system.slice/$name.service $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "slice",
        rules: &[r#"{"SigningIdentifier": "unit:$name.slice"}"#],
        before: "",
        starts: &[
            (
                "a service in it",
                "in_group /$name.slice/a.service $first",
                Managed,
            ),
            (
                "a slice in it",
                "in_group /$name.slice/$name-b.slice/c.scope $first",
                Managed,
            ),
            (
                "one like it",
                "in_group /x$name.slice/a.service $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "scope",
        rules: &[r#"{"SigningIdentifier": "unit:$name.scope"}"#],
        before: "",
        starts: &[
            (
                "in it",
                "in_group /system.slice/$name.scope $first",
                Managed,
            ),
            (
                "a service",
                "in_group /system.slice/$name.service $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "control group",
        rules: &[r#"{"SigningIdentifier": "cgroup:/$name/jobs"}"#],
        before: "",
        starts: &[
            ("in it", "in_group /$name/jobs $first", Managed),
            ("below it", "in_group /$name/jobs/a/b $first", Managed),
            ("above it", "in_group /$name $first", Direct),
            ("one like it", "in_group /$name/jobs2 $first", Direct),
            (
                "the same end elsewhere",
                "in_group /$name/x/jobs $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "Flatpak",
        rules: &[r#"{"SigningIdentifier": "flatpak:org.$name.App"}"#],
        before: "",
        starts: &[
            (
                "its scope",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/app-flatpak-org.$name.App-42.scope $first",
                Managed,
            ),
            (
                "another Flatpak's scope",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/app-flatpak-org.$name.Apple-42.scope $first",
                Direct,
            ),
            (
                "a scope that a desktop made",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/app-gnome-org.$name.App-42.scope $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "Snap",
        rules: &[r#"{"SigningIdentifier": "snap:$name"}"#],
        before: "",
        starts: &[
            (
                "its scope",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/snap.$name.app-1b2c.scope $first",
                Managed,
            ),
            (
                "its service",
                "in_group /system.slice/snap.$name.daemon.service $first",
                Managed,
            ),
            (
                "another snap",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/snap.x$name.app-1b2c.scope $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "desktop entry",
        rules: &[r#"{"SigningIdentifier": "app:org.$name.Editor"}"#],
        before:
            "cp $first $dir/editor; cp $first $dir/other; mkdir -p /usr/local/share/applications
            findmnt -rno TARGET /usr/local/share/applications ||
                mount -t tmpfs tmpfs /usr/local/share/applications
            printf '[Desktop Entry]\\nType=Application\\nName=Editor\\nExec=$dir/editor %%U\\n' \
                >/usr/local/share/applications/org.$name.Editor.desktop",
        starts: &[
            ("what it executes", "$dir/editor", Managed),
            ("another program", "$dir/other", Direct),
            (
                "a scope of a desktop",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/app-gnome-org.$name.Editor-42.scope $first",
                Managed,
            ),
            (
                "a service of a desktop",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/app-org.$name.Editor@42.service $first",
                Managed,
            ),
            (
                "another entry's scope",
                "in_group /user.slice/user-0.slice/user@0.service/app.slice/app-gnome-org.$name.Other-42.scope $first",
                Direct,
            ),
        ],
    },
    Case {
        label: "AppImage",
        rules: &[r#"{"SigningIdentifier": "exe:$name.AppImage"}"#],
        before: "cp /usr/bin/dash $dir/$name.AppImage; cp /usr/bin/dash $dir/other.AppImage; mkdir $dir/mount",
        starts: &[
            (
                "what it mounts and executes",
                "$dir/$name.AppImage -c 'mount -t tmpfs tmpfs $dir/mount
                    cp $first $dir/mount/AppRun; $dir/mount/AppRun; umount $dir/mount'",
                Managed,
            ),
            (
                "what it unpacks and executes",
                "$dir/$name.AppImage -c 'd=$(mktemp -d); cp $first $d/AppRun; $d/AppRun; rm -r $d'",
                Managed,
            ),
            (
                "another one",
                "$dir/other.AppImage -c 'mount -t tmpfs tmpfs $dir/mount
                    cp $first $dir/mount/AppRun; $dir/mount/AppRun; umount $dir/mount'",
                Direct,
            ),
        ],
    },
];
