/* A file of whole lines under every failure of the kernel. */
#include "unit/audit/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(appender, .init = support_init, .fini = support_fini);

enum { LINES = 5 };

static const char *const lines[LINES] = {
	"{\"time\":\"a\",\"id\":\"1\"}\n", "{\"time\":\"bb\",\"id\":\"2\"}\n", "{\"time\":\"\",\"id\":\"3\"}\n",
	"{\"time\":\"dddddddddddd\",\"id\":\"4\"}\n", "{\"time\":\"e\",\"id\":\"5\"}\n"
};

static size_t append(struct appender *a, const struct audit_sys *sys, size_t from, size_t count)
{
	struct iovec iov[LINES];

	for (size_t i = 0; i < count; i++) {
		union { /* writev does not write to it */
			const char *in;
			void *out;
		} base = { .in = lines[from + i] };

		iov[i] = (struct iovec){ base.out, strlen(lines[from + i]) };
	}
	return appender_write(a, sys, iov, count);
}

static void open_here(struct appender *a, const struct audit_sys *sys)
{
	appender_init(a);
	cr_assert(appender_open(a, sys, AT_FDCWD, support_path("f")));
}

static void put_file(const char *text)
{
	FILE *f = fopen(support_path("f"), "we");

	cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void expect_file(const char *text)
{
	size_t n;
	char *all = support_read(support_path("f"), &n);

	cr_assert(all);
	cr_assert_str_eq(all, text);
	free(all);
}

static void want_lines(char out[static 512], size_t from, size_t count)
{
	*out = '\0';
	for (size_t i = from; i < from + count; i++)
		snprintf(out + strlen(out), 512 - strlen(out), "%s", lines[i]);
}

/* The disk is full at byte k of the batch, for every k; then there is room again. */
Test(appender, full_at_every_byte)
{
	size_t total = 0;

	for (size_t i = 0; i < LINES; i++)
		total += strlen(lines[i]);
	for (long long k = 0; k <= (long long)total; k++) {
		char want[512];
		struct appender a;
		size_t done, bytes = 0;

		unlink(support_path("f"));
		open_here(&a, &support_sys);
		atomic_store(&support_room, k);
		done = append(&a, &support_sys, 0, LINES);
		for (size_t i = 0; i < done; i++)
			bytes += strlen(lines[i]);
		cr_assert_leq((long long)bytes, k);
		cr_assert(done == LINES || (long long)(bytes + strlen(lines[done])) > k, "as many as fit");
		cr_assert_eq(a.error, done == LINES ? 0 : ENOSPC);
		want_lines(want, 0, done);
		expect_file(want);

		atomic_store(&support_room, SUPPORT_NO_LIMIT);
		cr_assert_eq(append(&a, &support_sys, done, LINES - done), LINES - done);
		want_lines(want, 0, LINES);
		expect_file(want);
		appender_close(&a);
	}
}

/* The same where nothing can be cut off: only the broken line is unreadable. */
Test(appender, full_at_every_byte_of_an_append_only_file)
{
	size_t total = 0;

	atomic_store(&support_no_cut, true);
	for (size_t i = 0; i < LINES; i++)
		total += strlen(lines[i]);
	for (long long k = 0; k < (long long)total; k++) {
		char *all, *line, *end;
		struct appender a;
		size_t done, n, good = 0;

		unlink(support_path("f"));
		open_here(&a, &support_sys);
		atomic_store(&support_room, k);
		done = append(&a, &support_sys, 0, LINES);
		atomic_store(&support_room, 0); /* once more without any room */
		cr_assert_eq(append(&a, &support_sys, done, LINES - done), 0);
		atomic_store(&support_room, SUPPORT_NO_LIMIT);
		cr_assert_eq(append(&a, &support_sys, done, LINES - done), LINES - done);
		all = support_read(support_path("f"), &n);
		for (line = all; (end = strchr(line, '\n')); line = end + 1)
			if (good < LINES && (size_t)(end + 1 - line) == strlen(lines[good]) &&
			    memcmp(line, lines[good], strlen(lines[good])) == 0)
				good++;
		cr_assert_eq(*line, '\0');
		cr_assert_eq(good, (size_t)LINES, "room for %lld bytes", k);
		free(all);
		appender_close(&a);
	}
}

Test(appender, short_and_interrupted_writes)
{
	char want[512];
	struct appender a;

	atomic_store(&support_trickle, true);
	open_here(&a, &support_sys);
	cr_assert_eq(append(&a, &support_sys, 0, LINES), (size_t)LINES);
	want_lines(want, 0, LINES);
	expect_file(want);
	appender_close(&a);
}

/* What a killed process may have left at the end of the file, and what becomes of it. */
static const struct {
	const char *before, *after;
} ends[] = {
	{ "", "" },
	{ "{\"time\":\"x\"}\n", "{\"time\":\"x\"}\n" },
	{ "{\"time\":\"x\"}\n{\"time\":\"y\",\"ki", "{\"time\":\"x\"}\n" },
	{ "{\"time\":\"x\"}\n{\"ti", "{\"time\":\"x\"}\n" },
	{ "{\"time\":\"x\"}\n{", "{\"time\":\"x\"}\n" },
	{ "{\"time\":\"x\"}", "" },
	{ "{", "" },
	/* not ours: nothing is cut */
	{ "notes", "notes\n" },
	{ "{\"time\":\"x\"}\nnotes", "{\"time\":\"x\"}\nnotes\n" },
	{ "{\"other\":1}", "{\"other\":1}\n" },
};

Test(appender, ends_left_by_a_kill)
{
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		struct appender a;
		char want[512];

		put_file(ends[i].before);
		open_here(&a, &audit_sys_kernel);
		expect_file(ends[i].before); /* opening alone changes nothing */
		cr_assert_eq(append(&a, &audit_sys_kernel, 0, 1), 1u);
		snprintf(want, sizeof(want), "%s%s", ends[i].after, lines[0]);
		expect_file(want);
		appender_close(&a);
	}
}

/* The broken line is longer than any of ours: somebody else's file, left as it is. */
Test(appender, a_long_end_is_not_cut)
{
	static char text[3 * AUDIT_LINE_MAX], want[sizeof(text) + 512];
	struct appender a;

	memset(text, 'x', sizeof(text) - 1);
	memcpy(text, "{\"time\":", 8);
	put_file(text);
	open_here(&a, &audit_sys_kernel);
	cr_assert_eq(append(&a, &audit_sys_kernel, 0, 1), 1u);
	snprintf(want, sizeof(want), "%s\n%s", text, lines[0]);
	expect_file(want);
	appender_close(&a);
}

/* While another process writes there too, nothing is cut. */
Test(appender, another_writer)
{
	struct appender a, other;
	char want[512];

	open_here(&other, &audit_sys_kernel);
	open_here(&a, &support_sys);
	atomic_store(&support_room, 5);
	cr_assert_eq(append(&a, &support_sys, 0, 1), 0u);
	atomic_store(&support_room, SUPPORT_NO_LIMIT);
	cr_assert_eq(append(&a, &support_sys, 0, 1), 1u);
	snprintf(want, sizeof(want), "%.5s\n%s", lines[0], lines[0]);
	expect_file(want);
	appender_close(&other);
	/* alone again: cut, and the shared lock is back for whoever comes next */
	atomic_store(&support_room, 5);
	cr_assert_eq(append(&a, &support_sys, 0, 1), 0u);
	expect_file(want);
	open_here(&other, &audit_sys_kernel);
	cr_assert_lt(flock(other.fd, LOCK_EX | LOCK_NB), 0);
	appender_close(&other);
	appender_close(&a);
}

Test(appender, what_is_no_file_is_refused)
{
	struct appender a;

	put_file("precious\n");
	appender_init(&a);
	cr_assert_eq(symlink("f", support_path("link")), 0);
	cr_assert_not(appender_open(&a, &audit_sys_kernel, AT_FDCWD, support_path("link")));
	cr_assert_eq(a.error, ELOOP);
	cr_assert_eq(mkfifo(support_path("fifo"), 0600), 0);
	cr_assert_not(appender_open(&a, &audit_sys_kernel, AT_FDCWD, support_path("fifo")));
	cr_assert_eq(mkdir(support_path("dir"), 0700), 0);
	cr_assert_not(appender_open(&a, &audit_sys_kernel, AT_FDCWD, support_path("dir")));
	cr_assert_not(appender_open(&a, &audit_sys_kernel, AT_FDCWD, "/dev/null"));
	cr_assert_eq(a.fd, -1);
	expect_file("precious\n");
}

Test(appender, gone_and_reopened)
{
	struct appender a;
	struct stat st;

	open_here(&a, &audit_sys_kernel);
	cr_assert_not(appender_is_gone(&a));
	cr_assert_eq(append(&a, &audit_sys_kernel, 0, 1), 1u);
	cr_assert_eq(appender_size(&a), (off_t)strlen(lines[0]));
	cr_assert_eq(fstat(a.fd, &st), 0);
	cr_assert_eq(st.st_mode & 07777 & ~0640u, 0u);
	cr_assert_eq(rename(support_path("f"), support_path("f.1")), 0);
	cr_assert_not(appender_is_gone(&a), "renamed is not gone");
	cr_assert_eq(unlink(support_path("f.1")), 0);
	cr_assert(appender_is_gone(&a));
	open_here(&a, &audit_sys_kernel);
	cr_assert_not(appender_is_gone(&a));
	/* an attempt that fails leaves what is open */
	cr_assert_not(appender_open(&a, &audit_sys_kernel, AT_FDCWD, support_path("no/such")));
	cr_assert_eq(a.error, ENOENT);
	cr_assert_eq(append(&a, &audit_sys_kernel, 1, 1), 1u);
	expect_file(lines[1]);
	appender_close(&a);
}
