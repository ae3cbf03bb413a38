/* Which execs are asked about, and the answers that are remembered. */
#pragma once

#include "labels.h"

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

/* All that is known of an exec that is asked about. */
struct question {
	__u32 asker; /* who is to wait for the answers to many */
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

/* So many questions may be open of all, and of one who asks. */
#define QUESTIONS 65536
#define QUESTIONS_EACH 8192

/* The questions that no answer has come for: exec -> question. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, QUESTIONS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

/* How many times each has asked. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} askers SEC(".maps");

struct slot {
	__u32 asker;
	__u32 number; /* below QUESTIONS_EACH */
};

/* The places for open questions of each: the exec that had it last. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2 * QUESTIONS);
	__type(key, struct slot);
	__type(value, __u32);
} slots SEC(".maps");

/* The exec of a task that has been looked at: while a new daemon takes over, two are at work. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} looked_at SEC(".maps");

struct scratch {
	char path[PATH_SIZE];
	char name[256];
	struct question question;
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

static __always_inline int is_candidate_cgroup(__u64 id)
{
	__u8 *known = bpf_map_lookup_elem(&cgroups, &id);

	/* One that we have not heard of is looked at. */
	return !known || *known;
}
