/* kill -9 at any moment: every record that somebody was told is written, is written. */
#include "unit/audit/support.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 20, THREADS = 3, ACKS_MAX = 20000 };

TestSuite(kill, .init = support_init, .fini = support_fini);

static struct audit *audit;
static int ack_fd;

static void *submit_for_ever(void *name)
{
	for (;;) {
		struct support_waiter waiter = { 0, -1 };
		char id[AUDIT_ID_SIZE];
		struct audit_event event = support_event(AUDIT_OPEN, name, id);

		if (audit_submit(audit, &event, support_done, &waiter) != REASON_OK)
			_exit(1);
		while (atomic_load(&waiter.calls) == 0)
			sched_yield();
		if (atomic_load(&waiter.verdict) != REASON_OK || write(ack_fd, id, sizeof(id)) != (ssize_t)sizeof(id))
			_exit(1);
	}
	return NULL;
}

_Noreturn static void child(void)
{
	static char users[THREADS][16];
	struct audit_config config = { .directory = support_dir };
	char error[256];
	pthread_t thread;

	audit = audit_new(&config, error, sizeof(error));
	for (int i = 0; audit && i < THREADS; i++) {
		snprintf(users[i], sizeof(users[i]), "u%d", i);
		pthread_create(&thread, NULL, submit_for_ever, users[i]);
	}
	for (;;)
		pause();
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* The ids in a file whose last line may be broken. */
static size_t written_ids(const char *path, char (*ids)[AUDIT_ID_SIZE], size_t max)
{
	size_t size, n = 0;
	char *all = support_read(path, &size), *end;

	cr_assert(all);
	for (char *line = all; (end = strchr(line, '\n')); line = end + 1) {
		char *id = strstr(line, "\"id\":\"");

		cr_assert(id && id < end && n < max);
		memcpy(ids[n], id + 6, AUDIT_ID_SIZE - 1);
		ids[n++][AUDIT_ID_SIZE - 1] = '\0';
	}
	free(all);
	return n;
}

/* Rounds continue each other's files, so that the broken ends of one are repaired by the next. */
Test(kill, acknowledged_is_written, .timeout = 300)
{
	static char acks[ROUNDS * ACKS_MAX][AUDIT_ID_SIZE], ids[ROUNDS * ACKS_MAX][AUDIT_ID_SIZE];
	size_t ack_count = 0, count;

	for (int round = 0; round < ROUNDS; round++) {
		size_t wanted = ack_count + 20 + (size_t)round * 17;
		int ends[2], status;
		pid_t pid;

		cr_assert_eq(pipe(ends), 0);
		pid = fork();
		if (pid == 0) {
			close(ends[0]);
			ack_fd = ends[1];
			child();
		}
		close(ends[1]);
		while (ack_count < wanted && read(ends[0], acks[ack_count], AUDIT_ID_SIZE) == AUDIT_ID_SIZE)
			ack_count++;
		kill(pid, SIGKILL);
		while (ack_count < (size_t)(round + 1) * ACKS_MAX && read(ends[0], acks[ack_count], AUDIT_ID_SIZE) == AUDIT_ID_SIZE)
			ack_count++;
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		cr_assert_geq(ack_count, wanted);
		close(ends[0]);
	}
	qsort(acks, ack_count, sizeof(*acks), compare);
	count = written_ids(support_path("access.jsonl"), ids, sizeof(ids) / sizeof(*ids));
	qsort(ids, count, sizeof(*ids), compare);
	for (size_t i = 0; i < ack_count; i++)
		cr_assert(bsearch(acks[i], ids, count, sizeof(*ids), compare), "%s of %zu is lost", acks[i], ack_count);
	count = 0;
	for (int i = 0; i < THREADS; i++) {
		char path[32];

		snprintf(path, sizeof(path), "users/u%d.jsonl", i);
		count += written_ids(support_path(path), ids + count, sizeof(ids) / sizeof(*ids) - count);
	}
	qsort(ids, count, sizeof(*ids), compare);
	for (size_t i = 0; i < ack_count; i++)
		cr_assert(bsearch(acks[i], ids, count, sizeof(*ids), compare), "%s is not in the user's file", acks[i]);
}
