/*
 * Which programs the daemon is asked about.
 *
 * At exec a program that a rule may mean takes the verdict on its kind from `verdicts`, or is
 * undecided until the daemon has answered: its flows are captured from the first one on.
 */
#pragma once

#define INTEREST_EVERY_EXEC (1 << 0)
#define INTEREST_BY_USER (1 << 1)
#define INTEREST_NAMES (1 << 2)
#define INTEREST_FILES (1 << 3)
#define INTEREST_CGROUPS (1 << 4)
#define INTEREST_ANY ~INTEREST_BY_USER

#define PATH_SIZE 4096
#define FILENAME_SIZE 256
#define ARGUMENTS_SIZE 512

/* FNV-1a, 64 bits. */
#define HASH_BASIS 0xcbf29ce484222325ULL
#define HASH_PRIME 0x100000001b3ULL

struct interest {
	__u32 generation; /* grows with every change: older verdicts count no more */
	__u32 flags;
};

struct file_id {
	__u64 inode;
	__u32 device;
	__u32 generation;
};

/* All that a verdict depends on. */
struct kind {
	struct file_id file;
	__s64 changed; /* the inode's ctime, s */
	__u64 name;    /* of the executable's own entry, hashed */
	__u64 path;    /* that was given to exec, hashed */
	__u64 folder;  /* inode of the folder that the executable is in */
	__u64 cgroup;  /* zero where it does not matter */
	__u32 changed_nsec;
	__u32 user; /* zero where it does not matter */
	__u32 before; /* class */
	__u32 none;
};

struct verdict {
	__u32 class;
	__u32 instance;	  /* of the class */
	__u32 generation; /* of the interest */
};

struct exec_event {
	__u32 kind;
	__u32 exec;
	__u32 before; /* the exec that no answer came for, or zero */
	__u32 from;
	struct kind of;
	__u64 cgroup;
	__u32 generation; /* of the interest */
	__u32 process;
	__u32 uid;
	__u32 gid;
	__u32 filename_length;
	__u32 arguments_length;
	char filename[FILENAME_SIZE];
	char arguments[ARGUMENTS_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct interest);
} interest SEC(".maps");

/* Numbers the execs that are asked about; goes on after a restart. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} execs SEC(".maps");

/* Executables by name, hashed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct file_id);
	__type(value, __u8);
} files SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kind);
	__type(value, struct verdict);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} cgroup_names SEC(".maps");

/* Whether a rule may mean the cgroup of this number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} cgroups SEC(".maps");

struct scratch {
	char path[PATH_SIZE];
	char name[256];
};

/* Tracepoints run without preemption, and none of ours runs inside another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *get_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

static __always_inline __u64 hash_byte(__u64 hash, char byte)
{
	return (hash ^ (__u8)byte) * HASH_PRIME;
}

static __always_inline int is_of_interest(struct task_struct *task)
{
	struct settings *set = get_settings();

	return set && task->nsproxy->net_ns->net_cookie == set->netns_cookie;
}

/* File systems whose generations user space can read too; see FileId. */
static __always_inline int has_generations(__u64 magic)
{
	return magic == 0xEF53 || magic == 0x9123683E || magic == 0x58465342 || magic == 0xF2F52010;
}

#define BTRFS_SUPER_MAGIC 0x9123683E

/* The device that stat shows of a file on btrfs; zero where it cannot be known. */
static __always_inline __u32 subvolume(struct inode *inode)
{
	struct btrfs_inode *own;

	if (!bpf_core_type_exists(struct btrfs_inode))
		return 0;
	own = (void *)inode - bpf_core_field_offset(struct btrfs_inode, vfs_inode);
	return BPF_CORE_READ(own, root, anon_dev);
}

static __always_inline void read_file(struct file *file, struct scratch *space, struct kind *kind)
{
	struct inode *inode = file->f_inode;
	struct dentry *dentry = file->f_path.dentry;
	__u64 hash = HASH_BASIS;
	long length;

	kind->file.inode = inode->i_ino;
	kind->file.device = inode->i_sb->s_dev;
	if (inode->i_sb->s_magic == BTRFS_SUPER_MAGIC)
		kind->file.device = subvolume(inode);
	if (has_generations(inode->i_sb->s_magic))
		kind->file.generation = inode->i_generation;
	if (bpf_core_field_exists(struct inode___6_11, i_ctime_sec)) {
		struct inode___6_11 *fresh = (void *)inode;

		kind->changed = fresh->i_ctime_sec;
		/* The upper bit says whether somebody has looked at it. */
		kind->changed_nsec = fresh->i_ctime_nsec & 0x7fffffff;
	} else if (bpf_core_field_exists(struct inode___6_6, __i_ctime)) {
		struct inode___6_6 *fresh = (void *)inode;

		kind->changed = fresh->__i_ctime.tv_sec;
		kind->changed_nsec = fresh->__i_ctime.tv_nsec;
	}
	kind->folder = dentry->d_parent->d_inode->i_ino;
	length = bpf_probe_read_kernel_str(space->name, sizeof(space->name), dentry->d_name.name);
	for (int i = 0; i < 255 && i < length - 1; i++)
		hash = hash_byte(hash, space->name[i]);
	kind->name = hash;
}

#define BLOCK 64

struct hashes {
	__u64 whole;
	__u64 name; /* of what is behind the last slash */
	long length;
};

/* The verifier looks at a block once, however many there are. */
static long hash_block(__u64 block, struct hashes *hashes)
{
	struct scratch *space = get_scratch();
	__u64 start = block * BLOCK;

	if (!space || start > PATH_SIZE - BLOCK)
		return 1;
	for (int i = 0; i < BLOCK; i++) {
		char byte = space->path[start + i];

		if ((long)(start + i) >= hashes->length)
			return 1;
		hashes->whole = hash_byte(hashes->whole, byte);
		hashes->name = byte == '/' ? HASH_BASIS : hash_byte(hashes->name, byte);
	}
	return 0;
}

/* Hashes the path that was given to exec; returns the hash of its last component. */
static __always_inline __u64 read_path(const char *path, struct scratch *space, struct kind *kind)
{
	struct hashes hashes = { .whole = HASH_BASIS, .name = HASH_BASIS };

	hashes.length = bpf_probe_read_kernel_str(space->path, sizeof(space->path), path) - 1;
	bpf_loop(PATH_SIZE / BLOCK, hash_block, &hashes, 0);
	kind->path = hashes.whole;
	return hashes.name;
}

static __always_inline int is_candidate_cgroup(__u64 id)
{
	__u8 *known = bpf_map_lookup_elem(&cgroups, &id);

	/* One that we have not heard of is looked at. */
	return !known || *known;
}

static __always_inline __u32 next_exec(void)
{
	__u32 zero = 0;
	__u32 *last = bpf_map_lookup_elem(&execs, &zero);
	__u32 number;

	if (!last)
		return 1;
	number = __sync_fetch_and_add(last, 1) + 1;
	return number ? number : __sync_fetch_and_add(last, 1) + 1;
}

static __always_inline void tell_exec(struct task_struct *task, struct linux_binprm *bprm,
				      struct kind *kind, struct label *label, __u32 before,
				      __u32 generation)
{
	struct mm_struct *mm = task->mm;
	struct exec_event *event;
	unsigned long size;
	long length;

	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	/* The daemon asks /proc when the first flow arrives. */
	if (!event)
		return;
	event->kind = EVENT_EXEC;
	event->exec = label->exec;
	event->before = before;
	event->from = label->from;
	event->of = *kind;
	event->cgroup = bpf_get_current_cgroup_id();
	event->generation = generation;
	event->process = task->tgid;
	event->uid = task->cred->uid.val;
	event->gid = task->cred->gid.val;
	length = bpf_probe_read_kernel_str(event->filename, sizeof(event->filename), bprm->filename);
	event->filename_length = length > 0 ? length - 1 : 0;
	size = mm->arg_end - mm->arg_start;
	if (size > sizeof(event->arguments))
		size = sizeof(event->arguments);
	event->arguments_length = size;
	if (bpf_probe_read_user(event->arguments, size, (void *)mm->arg_start))
		event->arguments_length = 0;
	bpf_ringbuf_submit(event, 0);
}

/* The class that is known for a kind of exec; less than zero: the daemon is to be asked. */
static __always_inline int known_class(struct kind *kind, __u32 generation)
{
	struct verdict *verdict = bpf_map_lookup_elem(&verdicts, kind);
	struct class *class;

	if (!verdict || verdict->generation != generation)
		return -1;
	if (!verdict->class)
		return 0;
	class = get_class(verdict->class);
	return class && class->instance == verdict->instance ? (int)verdict->class : -1;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct label *stored = stored_label(task);
	struct interest *wanted;
	struct label before = {}, label = {};
	struct scratch *space;
	struct class *class;
	struct kind kind = {};
	int candidate = 0;
	int known = -1;
	__u64 cgroup, name;
	__u32 zero = 0;

	wanted = bpf_map_lookup_elem(&interest, &zero);
	space = get_scratch();
	if (!wanted || !space)
		return 0;
	if (stored)
		before = resolve(stored);
	else if (!(wanted->flags & INTEREST_ANY))
		return 0;
	if (!is_of_interest(task))
		return 0;
	if (before.class == UNDECIDED) {
		candidate = 1;
	} else if (before.class) {
		class = get_class(before.class);
		candidate = class && class->flags & CLASS_TOOLS;
	}
	candidate = candidate || wanted->flags & INTEREST_EVERY_EXEC;
	if (!candidate && !(wanted->flags & INTEREST_ANY))
		return 0;
	read_file(task->mm->exe_file, space, &kind);
	name = read_path(bprm->filename, space, &kind);
	if (!candidate && wanted->flags & INTEREST_NAMES)
		candidate = bpf_map_lookup_elem(&names, &kind.name) ||
			    bpf_map_lookup_elem(&names, &name);
	if (!candidate && wanted->flags & INTEREST_FILES)
		candidate = !kind.file.device || bpf_map_lookup_elem(&files, &kind.file);
	if (wanted->flags & INTEREST_CGROUPS) {
		cgroup = bpf_get_current_cgroup_id();
		if (is_candidate_cgroup(cgroup)) {
			candidate = 1;
			kind.cgroup = cgroup;
		}
	}
	if (!candidate)
		return 0;
	if (wanted->flags & INTEREST_BY_USER)
		kind.user = task->cred->uid.val;
	kind.before = before.class;
	if (before.class != UNDECIDED)
		known = known_class(&kind, wanted->generation);
	if (known == 0 && !stored)
		return 0;
	label.exec = next_exec();
	label.class = known < 0 ? UNDECIDED : known;
	if (known < 0)
		label.from = before.class == UNDECIDED ? before.from : before.class;
	if (put_label(task, &label))
		/* Rather gone than past the proxy. */
		bpf_send_signal(SIGKILL);
	if (known < 0)
		tell_exec(task, bprm, &kind, &label, before.class == UNDECIDED ? before.exec : 0,
			  wanted->generation);
	return 0;
}

/* ---- cgroups ---- */

struct walk {
	__u64 whole;   /* hash of this component so far */
	__u64 segment; /* and since its last '-' */
	long length;
	int found;
};

static __always_inline void test(struct walk *walk, __u64 *hash)
{
	__u64 key = *hash;

	if (bpf_map_lookup_elem(&cgroup_names, &key))
		walk->found = 1;
}

static long step(__u64 i, struct walk *walk)
{
	struct scratch *space = get_scratch();
	char byte = 0;

	if (!space || i >= sizeof(space->path))
		return 1;
	if (i < walk->length)
		byte = space->path[i];
	if (byte == '-' || byte == '@' || byte == '.' || byte == '/' || !byte)
		test(walk, &walk->whole);
	if (byte == '-' || byte == '@' || byte == '/' || !byte)
		test(walk, &walk->segment);
	if (!byte || walk->found)
		return 1;
	walk->whole = byte == '/' ? HASH_BASIS : hash_byte(walk->whole, byte);
	walk->segment = byte == '/' || byte == '-' ? HASH_BASIS : hash_byte(walk->segment, byte);
	return 0;
}

/* The one hierarchy of cgroup2; each of version 1 has another number. */
static __always_inline int is_unified(struct cgroup *cgroup)
{
	return cgroup->root->hierarchy_id == 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_mkdir, struct cgroup *cgroup, const char *path)
{
	struct walk walk = { .whole = HASH_BASIS, .segment = HASH_BASIS };
	struct scratch *space = get_scratch();
	__u64 id = cgroup->kn->id;
	__u8 found;

	if (!space || !is_unified(cgroup))
		return 0;
	walk.length = bpf_probe_read_kernel_str(space->path, sizeof(space->path), path);
	bpf_loop(PATH_SIZE, step, &walk, 0);
	found = walk.found;
	bpf_map_update_elem(&cgroups, &id, &found, BPF_ANY);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_rmdir, struct cgroup *cgroup)
{
	__u64 id = cgroup->kn->id;

	if (is_unified(cgroup))
		bpf_map_delete_elem(&cgroups, &id);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_attach, struct cgroup *cgroup, const char *path, struct task_struct *task)
{
	struct interest *wanted;
	struct event *event;
	__u64 id = cgroup->kn->id;
	__u32 zero = 0;

	wanted = bpf_map_lookup_elem(&interest, &zero);
	if (!wanted || !(wanted->flags & INTEREST_CGROUPS) || !is_unified(cgroup) ||
	    !is_candidate_cgroup(id) || !is_of_interest(task))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->kind = EVENT_MOVED;
	event->process = task->tgid;
	event->cookie = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}
