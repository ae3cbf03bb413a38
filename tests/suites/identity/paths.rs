//! Executables by their path: the file counts, however it is reached.

use offramp_tests::Case;
use offramp_tests::Expected::{Direct, Managed};

pub(crate) const CASES: [Case; 6] = [
    Case {
        label: "path",
        rules: &[
            r#"{"SigningIdentifier": "exe:$dir/app"}"#,
            r#"{"SigningIdentifier": "exe:$dir/shell"}"#,
            r#"{"SigningIdentifier": "exe:$dir/later"}"#,
        ],
        before: "cp $first $dir/app; cp $first $dir/other; cp /bin/bash $dir/shell; mkdir $dir/b",
        starts: &[
            ("there", "$dir/app", Managed),
            ("from its directory", "cd $dir; ./app", Managed),
            ("on a detour", "$dir/b/../app", Managed),
            ("by a link", "ln -s app $dir/link; $dir/link", Managed),
            ("by a hard link", "ln $dir/app $dir/hard; $dir/hard", Managed),
            (
                "by a bind mount of the file",
                "touch $dir/bound; mount --bind $dir/app $dir/bound; $dir/bound",
                Managed,
            ),
            (
                "by a bind mount of the directory",
                "mkdir $dir.bound; mount --bind $dir $dir.bound; $dir.bound/app",
                Managed,
            ),
            ("in a chroot", "chroot $dir /app", Managed),
            (
                "in other mounts, at another path",
                "unshare --mount sh -c 'mount --bind $dir/app $dir/other; $dir/other'",
                Managed,
            ),
            ("installed after the daemon started", "cp $first $dir/later; $dir/later", Managed),
            (
                "replaced by an upgrade",
                "cp $first $dir/new; mv $dir/new $dir/app; $dir/app; $dir/app",
                Managed,
            ),
            (
                "replaced while it runs",
                "$dir/shell -c 'cp $dir/shell $dir/new; mv $dir/new $dir/shell; $bash'",
                Managed,
            ),
            (
                "deleted before it is executed",
                "cp $first $dir/new; mv $dir/new $dir/app
                 exec 3<$dir/app; rm $dir/app; cp $first $dir/app; exec /proc/self/fd/3",
                Managed,
            ),
            ("a copy of another name", "cp $dir/app $dir/copy; $dir/copy", Direct),
            ("the same name elsewhere", "cp $dir/app $dir/b/app; $dir/b/app", Direct),
            (
                "another file at that path in a chroot",
                "mkdir -p $dir/root$dir; cp $first $dir/root$dir/app; chroot $dir/root $dir/app",
                Direct,
            ),
            (
                "another file at that path in other mounts",
                "unshare --mount sh -c 'mount --bind $dir/other $dir/app; $dir/app'",
                Direct,
            ),
            (
                "the path as argv[0] alone",
                "bash -c 'exec -a $dir/app $dir/other'",
                Direct,
            ),
        ],
    },
    Case {
        label: "path of a link",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/link"}"#],
        before: "cp $first $dir/real; ln -s real $dir/link",
        starts: &[
            ("by the link", "$dir/link", Managed),
            ("what the link leads to", "$dir/real", Managed),
            (
                "leads elsewhere now",
                "cp $first $dir/next; ln -sf next $dir/link; $dir/link",
                Managed,
            ),
            ("what it does not lead to", "cp $first $dir/alien; $dir/alien", Direct),
        ],
    },
    Case {
        label: "pattern of a path",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/v*/$name"}"#],
        before: "mkdir -p $dir/v1/deep $dir/w1
            for d in v1 v1/deep w1; do cp $first $dir/$d/$name; done",
        starts: &[
            ("like it", "$dir/v1/$name", Managed),
            ("new and like it", "mkdir $dir/v2; cp $first $dir/v2/$name; $dir/v2/$name", Managed),
            ("elsewhere", "$dir/w1/$name", Direct),
            ("deeper", "$dir/v1/deep/$name", Direct),
        ],
    },
    Case {
        label: "condition Path",
        rules: &[r#"{"SigningIdentifier": "exe:$name", "Path": "$dir/$name"}"#],
        before: "mkdir $dir/b; cp $first $dir/$name; cp $first $dir/b/$name",
        starts: &[
            ("there", "$dir/$name", Managed),
            ("elsewhere", "$dir/b/$name", Direct),
        ],
    },
    Case {
        label: "overlayfs",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/merged/app"}"#],
        before: "mkdir $dir/lower $dir/space $dir/merged; mount -t tmpfs tmpfs $dir/space
            mkdir $dir/space/upper $dir/space/work; cp $first $dir/lower/app; cp $first $dir/lower/other
            mount -t overlay overlay $dir/merged \
                -o lowerdir=$dir/lower,upperdir=$dir/space/upper,workdir=$dir/space/work",
        starts: &[
            ("there", "$dir/merged/app", Managed),
            ("another one there", "$dir/merged/other", Direct),
            ("what lies below it", "$dir/lower/app", Direct),
            (
                "copied up",
                "touch $dir/merged/app; $dir/merged/app",
                Managed,
            ),
        ],
    },
    Case {
        label: "btrfs",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/pool/a/app"}"#],
        before: "truncate -s 128M $dir/image; mkfs.btrfs -q $dir/image; mkdir $dir/pool
            mount -o loop $dir/image $dir/pool
            for s in a b; do btrfs -q subvolume create $dir/pool/$s; done
            cp $first $dir/pool/a/app; cp $first $dir/pool/b/other
            test $(stat -c %i $dir/pool/a/app) = $(stat -c %i $dir/pool/b/other)",
        starts: &[
            ("there", "$dir/pool/a/app", Managed),
            ("another subvolume's file of the same number", "$dir/pool/b/other", Direct),
            (
                "a snapshot of it",
                "btrfs -q subvolume snapshot $dir/pool/a $dir/pool/c; $dir/pool/c/app",
                Direct,
            ),
            (
                "replaced",
                "cp $first $dir/pool/a/new; mv $dir/pool/a/new $dir/pool/a/app; $dir/pool/a/app",
                Managed,
            ),
        ],
    },
];
