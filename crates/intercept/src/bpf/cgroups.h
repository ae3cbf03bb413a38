/* Which cgroups a rule may mean, and who comes into one. */
#pragma once

#include "interest.h"

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
