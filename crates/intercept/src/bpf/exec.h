/*
 * Which programs the daemon is asked about.
 *
 * At exec a program that a rule may mean takes the verdict on its kind from `verdicts`, or is
 * undecided until the daemon has answered: its flows are captured from the first one on.
 */
#pragma once

#include "interest.h"

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

/* Who asks: the user; of a user namespace, whoever made it, as its users are without number. */
static __always_inline __u32 who_asks(struct task_struct *task)
{
	struct user_namespace *space = BPF_CORE_READ(task, cred, user_ns);

	if (!BPF_CORE_READ(space, level))
		return task->cred->uid.val;
	for (int i = 0; i < 32 && BPF_CORE_READ(space, level) > 1; i++)
		space = BPF_CORE_READ(space, parent);
	return BPF_CORE_READ(space, owner.val);
}

/* Takes a place for one more open question; less than zero: `asker` has as many as one may have. */
static __always_inline int take_slot(__u32 asker, __u32 exec)
{
	struct slot slot = { .asker = asker };
	__u32 zero = 0;
	__u32 *asked = bpf_map_lookup_elem(&askers, &asker);
	__u32 *last;

	if (!asked) {
		bpf_map_update_elem(&askers, &asker, &zero, BPF_NOEXIST);
		asked = bpf_map_lookup_elem(&askers, &asker);
		if (!asked)
			return -1;
	}
	slot.number = __sync_fetch_and_add(asked, 1) % QUESTIONS_EACH;
	last = bpf_map_lookup_elem(&slots, &slot);
	if (last) {
		__u32 before = *last;

		if (bpf_map_lookup_elem(&questions, &before))
			return -1;
	}
	return bpf_map_update_elem(&slots, &slot, &exec, BPF_ANY);
}

/* Asks the daemon. It finds the question where the event is lost; where there is no room for the
 * question, it looks at the process itself. */
static __always_inline void ask(struct task_struct *task, struct linux_binprm *bprm,
				struct scratch *space, struct kind *kind, struct label *label,
				__u32 from, __u32 before, __u32 generation)
{
	struct question *question = &space->question;
	struct mm_struct *mm = task->mm;
	struct event *event;
	unsigned long size;
	__u32 exec = label->exec;
	long length;

	question->asker = who_asks(task);
	if (take_slot(question->asker, exec))
		return;
	question->exec = exec;
	question->before = before;
	question->from = from;
	question->of = *kind;
	question->cgroup = bpf_get_current_cgroup_id();
	question->generation = generation;
	question->process = task->tgid;
	question->uid = task->cred->uid.val;
	question->gid = task->cred->gid.val;
	length = bpf_probe_read_kernel_str(question->filename, sizeof(question->filename),
					   bprm->filename);
	question->filename_length = length > 0 ? length - 1 : 0;
	size = mm->arg_end - mm->arg_start;
	if (size > sizeof(question->arguments))
		size = sizeof(question->arguments);
	question->arguments_length = size;
	if (bpf_probe_read_user(question->arguments, size, (void *)mm->arg_start))
		question->arguments_length = 0;
	if (bpf_map_update_elem(&questions, &exec, question, BPF_ANY))
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return;
	event->kind = EVENT_EXEC;
	event->process = question->asker;
	event->cookie = exec;
	bpf_ringbuf_submit(event, 0);
}

/* Whether another of these programs has labelled the task at this very exec. */
static __always_inline int is_looked_at(struct task_struct *task)
{
	__u64 *last = bpf_task_storage_get(&looked_at, task, 0, 0);

	return last && *last == task->self_exec_id;
}

static __always_inline void note_look(struct task_struct *task)
{
	__u64 *last = bpf_task_storage_get(&looked_at, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (last)
		*last = task->self_exec_id;
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
	if (!is_of_interest(task) || (stored && is_looked_at(task)))
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
		/* UNDECIDED too: what is inherited is told by the answer for the exec before. */
		label.from = before.class;
	if (put_label(task, &label))
		/* Rather gone than past the proxy. */
		bpf_send_signal(SIGKILL);
	note_look(task);
	if (known < 0)
		ask(task, bprm, space, &kind, &label,
		    before.class == UNDECIDED ? before.from : before.class,
		    before.class == UNDECIDED ? before.exec : 0, wanted->generation);
	return 0;
}
