/* adit passwd: what it writes, what it keeps, what it refuses, and that nobody ever sees half a file. */
#include "cli/cli_priv.h"

#include "adit/auth/users.h"
#include "adit/base/mem.h"
#include "cli/passwd_priv.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define SHA "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1A="
#define X50 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X500 X50 X50 X50 X50 X50 X50 X50 X50 X50 X50

static char folder[] = "/tmp/adit-passwd-XXXXXX", path[64], err_path[64];

static void setup(void)
{
	cr_assert_not_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/users.htpasswd", folder);
	snprintf(err_path, sizeof(err_path), "%s/stderr", folder);
}

static void teardown(void)
{
	char command[128];

	unlink(path);
	unlink(err_path);
	snprintf(command, sizeof(command), "%s/link", folder);
	unlink(command);
	snprintf(command, sizeof(command), "%s/real", folder);
	unlink(command);
	cr_expect_eq(rmdir(folder), 0, "something is left in the folder");
}

static void put_file(const char *at, const char *text)
{
	FILE *f = fopen(at, "w");

	fputs(text, f);
	fclose(f);
}

static const char *get_file(const char *at)
{
	static char text[65536];
	FILE *f = fopen(at, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (f)
		fclose(f);
	text[n] = '\0';
	return text;
}

static const char *said(void)
{
	return get_file(err_path);
}

/* Runs it with `input` as standard input and standard error in a file. */
static int run_with(const char *input, size_t n, char **argv)
{
	int argc = 0, in[2], err = open(err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	int old_in = dup(0), old_err = dup(2), old_out = dup(1), status;

	while (argv[argc])
		argc++;
	cr_assert_eq(pipe(in), 0);
	cr_assert_eq(write(in[1], input, n), (ssize_t)n);
	close(in[1]);
	fflush(NULL);
	dup2(in[0], 0);
	dup2(err, 1);
	dup2(err, 2);
	status = passwd_main(argc, argv);
	fflush(NULL);
	dup2(old_in, 0);
	dup2(old_out, 1);
	dup2(old_err, 2);
	close(old_in);
	close(old_out);
	close(old_err);
	close(in[0]);
	close(err);
	return status;
}

#define RUN(input, ...) run_with((input), strlen(input), (char *[]){ (char[]){ "passwd" }, __VA_ARGS__, NULL })
#define ARG(text) (char[]){ text }

static void no_report(void *ctx ADIT_UNUSED, unsigned line, const char *message)
{
	cr_expect_fail("line %u: %s", line, message);
}

static bool logs_in(const char *user, const char *password, enum hash_kind kind)
{
	struct users *users = users_load(path, no_report, NULL);
	const struct user *line;
	bool ok;

	cr_assert_not_null(users);
	line = users_find(users, slice_of(user));
	ok = line && line->kind == kind && hash_verify(line, password, strlen(password));
	users_unref(users);
	return ok;
}

static mode_t mode_of(const char *at)
{
	struct stat st;

	cr_assert_eq(stat(at, &st), 0);
	return st.st_mode & 07777;
}

TestSuite(passwd, .init = setup, .fini = teardown);

Test(passwd, creates_changes_deletes)
{
	umask(0);
	cr_expect_eq(RUN("first\n", ARG("--stdin"), path, ARG("alice")), 0, "%s", said());
	cr_expect_eq(mode_of(path), 0600);
	cr_expect(logs_in("alice", "first", HASH_YESCRYPT));
	cr_expect_eq(RUN("sec\xc3\xb6nd", path, ARG("alice"), ARG("--stdin"), ARG("--hash=sha512")), 0, "%s", said());
	cr_expect(logs_in("alice", "sec\xc3\xb6nd", HASH_SHA512));
	cr_expect_eq(RUN("third\r\nmore\n", ARG("--stdin"), ARG("--hash"), ARG("bcrypt"), path, ARG("bob")), 0);
	cr_expect(logs_in("bob", "third", HASH_BCRYPT));
	cr_expect(logs_in("alice", "sec\xc3\xb6nd", HASH_SHA512));
	cr_expect_eq(RUN("", ARG("--delete"), path, ARG("alice")), 0, "%s", said());
	cr_expect_eq(strncmp(get_file(path), "bob:$2y$", 8), 0);
	cr_expect_null(strstr(get_file(path), "alice"));
	cr_expect_eq(RUN("", ARG("--delete"), path, ARG("alice")), 1);
	cr_expect_not_null(strstr(said(), "no user of this name"));
	cr_expect_eq(RUN("", ARG("--delete"), path, ARG("bob")), 0);
	cr_expect_str_eq(get_file(path), "");
}

struct edit {
	const char *before, *user, *hash, *after; /* after NULL: fails */
};

static const struct edit edits[] = {
	{ "", "a", "HASH", "a:HASH\n" },
	{ "# top\n\nb:x\n", "a", "HASH", "# top\n\nb:x\na:HASH\n" },
	{ "b:x", "a", "HASH", "b:x\na:HASH\n" },
	{ "# top\na:old\n \nwhat is this\nb:x\n", "a", "HASH", "# top\na:HASH\n \nwhat is this\nb:x\n" },
	{ "a:old\r\nb:x\r\n", "a", "HASH", "a:HASH\r\nb:x\r\n" },
	{ "b:x\na:old", "a", "HASH", "b:x\na:HASH" },
	{ "a:old\nb:x\na:older\n", "a", "HASH", "a:HASH\nb:x\n" },
	{ "#a:x\nab:x\na :x\nA:x\n", "a", "HASH", "#a:x\nab:x\na :x\nA:x\na:HASH\n" },
	{ "\xef\xbb\xbf" "a:old\nb:x\n", "a", "HASH", "\xef\xbb\xbf" "a:HASH\nb:x\n" },
	{ "b:x\na:old\nc:x\na:older\n", "a", NULL, "b:x\nc:x\n" },
	{ "b:x\n", "a", NULL, NULL },
	{ "", "a", NULL, NULL },
};

Test(passwd, keeps_all_other_lines)
{
	for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
		const struct edit *e = &edits[i];
		struct passwd_error error = { .text = "" };
		enum passwd_change change;

		put_file(path, e->before);
		change = passwd_file_change(path, slice_of(e->user), e->hash, &error);
		cr_expect_eq(change == PASSWD_FAILED, e->after == NULL, "row %zu: %s", i, error.text);
		cr_expect_str_eq(get_file(path), e->after ? e->after : e->before, "row %zu", i);
	}
}

Test(passwd, keeps_mode_link_and_folder_clean)
{
	char real[64], link_path[64];
	struct stat st;

	snprintf(real, sizeof(real), "%s/real", folder);
	snprintf(link_path, sizeof(link_path), "%s/link", folder);
	put_file(real, "b:" SHA "\n");
	chmod(real, 0640);
	cr_assert_eq(symlink("real", link_path), 0);
	umask(0077);
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), link_path, ARG("alice")), 0, "%s", said());
	cr_assert_eq(lstat(link_path, &st), 0);
	cr_expect(S_ISLNK(st.st_mode));
	cr_expect_eq(mode_of(real), 0640);
	cr_expect_not_null(strstr(get_file(real), "\nalice:$y$"));
	cr_expect(geteuid() != 0 || chown(real, 4711, 4712) == 0);
	cr_assert_eq(stat(real, &st), 0);
	uid_t owner = st.st_uid;
	gid_t group = st.st_gid;
	chmod(real, 0400);
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), real, ARG("alice")), 0, "%s", said());
	cr_expect_eq(mode_of(real), 0400);
	cr_assert_eq(stat(real, &st), 0);
	cr_expect(st.st_uid == owner && st.st_gid == group);
	unlink(real);
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), link_path, ARG("alice")), 1);
	cr_expect_not_null(strstr(said(), "symbolic link"));
}

Test(passwd, relative_paths)
{
	int back = open(".", O_RDONLY | O_DIRECTORY);

	cr_assert_eq(chdir(folder), 0);
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), ARG("users.htpasswd"), ARG("alice")), 0, "%s", said());
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), ARG("./users.htpasswd"), ARG("bob")), 0, "%s", said());
	cr_assert_eq(fchdir(back), 0);
	close(back);
	cr_expect(logs_in("alice", "pw", HASH_YESCRYPT) && logs_in("bob", "pw", HASH_YESCRYPT));
}

Test(passwd, refused_passwords)
{
	put_file(path, "b:" SHA "\n");
	cr_expect_eq(RUN("\n", ARG("--stdin"), path, ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "empty"));
	cr_expect_eq(RUN("", ARG("--stdin"), path, ARG("a")), 1);
	cr_expect_eq(RUN("a\tb\n", ARG("--stdin"), path, ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "control"));
	cr_expect_eq(run_with("a\0b\n", 4, (char *[]){ ARG("passwd"), ARG("--stdin"), path, ARG("a"), NULL }), 1);
	cr_expect_not_null(strstr(said(), "control"));
	cr_expect_eq(RUN(X500 "xxxxxxxxxxxx\n", ARG("--stdin"), path, ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "511"));
	cr_expect_eq(RUN(X500 X500 X500 "\n", ARG("--stdin"), path, ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "511"));
	cr_expect_eq(RUN(X50 "xxxxxxxxxxxxxxxxxxxxxxx\n", ARG("--stdin"), ARG("--hash=bcrypt"), path, ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "72"));
	cr_expect_str_eq(get_file(path), "b:" SHA "\n");
	cr_expect_eq(RUN(X50 "xxxxxxxxxxxxxxxxxxxxxx\n", ARG("--stdin"), ARG("--hash=bcrypt"), path, ARG("a")), 0, "%s", said());
	cr_expect(logs_in("a", X50 "xxxxxxxxxxxxxxxxxxxxxx", HASH_BCRYPT));
	cr_expect_eq(RUN(X500 "xxxxxxxxxxx\n", ARG("--stdin"), path, ARG("a")), 0, "%s", said());
	cr_expect(logs_in("a", X500 "xxxxxxxxxxx", HASH_YESCRYPT));
}

Test(passwd, usage)
{
	cr_expect_eq(RUN("", ARG("--help")), 0);
	cr_expect_not_null(strstr(said(), "Usage: adit passwd"));
	cr_expect_eq(RUN("pw\n", path), 2);
	cr_expect_eq(RUN("pw\n", path, ARG("a"), ARG("b")), 2);
	cr_expect_eq(RUN("pw\n", ARG("--frob"), path, ARG("a")), 2);
	cr_expect_not_null(strstr(said(), "--frob"));
	cr_expect_eq(RUN("pw\n", path, ARG("a"), ARG("--hash")), 2);
	cr_expect_eq(RUN("pw\n", ARG("--hash"), ARG("md5"), path, ARG("a")), 2);
	cr_expect_not_null(strstr(said(), "md5"));
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), ARG("--delete"), path, ARG("a")), 2);
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), path, ARG("a:b")), 2);
	cr_expect_not_null(strstr(said(), "colon"));
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), path, ARG("a\nb")), 2);
	cr_expect_not_null(strstr(said(), "control"));
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), path, ARG("")), 2);
	cr_expect_eq(access(path, F_OK), -1, "nothing was made");
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), ARG("/nonexistent/folder/file"), ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "No such file"));
	cr_expect_eq(RUN("pw\n", ARG("--stdin"), folder, ARG("a")), 1);
	cr_expect_not_null(strstr(said(), "regular"));
	cr_expect_eq(RUN("", ARG("--delete"), path, ARG("a")), 1);
	cr_expect_eq(access(path, F_OK), -1);
}

Test(passwd, out_of_memory_leaves_the_file)
{
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		struct passwd_error error = { .text = "" };
		enum passwd_change change;

		put_file(path, "b:" SHA "\n");
		mem_fault_set(nth, false);
		change = passwd_file_change(path, slice_of("a"), "HASH", &error);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_expect_eq(change == PASSWD_FAILED, hit);
		cr_expect_str_eq(get_file(path), hit ? "b:" SHA "\n" : "b:" SHA "\na:HASH\n");
	}
}

enum { RUNNERS = 4, ROUNDS = 25 };

/* Runners add users of their own while a reader looks: no change is lost, and no look sees half a file. */
Test(passwd, concurrent_runs)
{
	pid_t runners[RUNNERS];
	struct users *users = NULL;
	unsigned running = RUNNERS;

	put_file(path, "b:" SHA "\n");
	for (int r = 0; r < RUNNERS; r++) {
		runners[r] = fork();
		if (runners[r] == 0) {
			for (int i = 0; i < ROUNDS; i++) {
				struct passwd_error error;
				char name[32];

				snprintf(name, sizeof(name), "user%d-%d", r, i);
				if (passwd_file_change(path, slice_of(name), SHA, &error) != PASSWD_ADDED)
					_exit(1);
			}
			_exit(0);
		}
	}
	while (running > 0) {
		int status;

		users_unref(users);
		users = users_load(path, no_report, NULL);
		cr_assert_not_null(users);
		if (waitpid(-1, &status, WNOHANG) > 0) {
			cr_expect_eq(status, 0);
			running--;
		}
	}
	users_unref(users);
	users = users_load(path, no_report, NULL);
	cr_expect_eq(users_count(users), RUNNERS * ROUNDS + 1);
	users_unref(users);
}

/* --- on a terminal --------------------------------------------------------------------------------------------- */

struct terminal {
	int master;
	pid_t child;
	char shown[4096]; /* everything the terminal has shown */
};

static void start_on_terminal(struct terminal *t)
{
	memset(t, 0, sizeof(*t));
	t->master = posix_openpt(O_RDWR | O_NOCTTY);
	cr_assert(t->master >= 0 && grantpt(t->master) == 0 && unlockpt(t->master) == 0);
	t->child = fork();
	if (t->child == 0) {
		char *argv[] = { ARG("passwd"), path, ARG("alice"), NULL };
		int slave;

		setsid();
		slave = open(ptsname(t->master), O_RDWR);
		if (ioctl(slave, TIOCSCTTY, 0) != 0)
			_exit(99);
		dup2(slave, 0);
		dup2(slave, 1);
		dup2(slave, 2);
		_exit(passwd_main(3, argv));
	}
}

static void await_shown(struct terminal *t, const char *text)
{
	while (!strstr(t->shown, text)) {
		struct pollfd fd = { .fd = t->master, .events = POLLIN };
		size_t n = strlen(t->shown);
		ssize_t got;

		cr_assert_eq(poll(&fd, 1, 30000), 1, "waited in vain for: %s", text);
		got = read(t->master, t->shown + n, sizeof(t->shown) - 1 - n);
		cr_assert_gt(got, 0, "ended before: %s, after: %s", text, t->shown);
		t->shown[n + (size_t)got] = '\0';
	}
}

static void type(struct terminal *t, const char *text)
{
	cr_assert_eq(write(t->master, text, strlen(text)), (ssize_t)strlen(text));
}

static bool echoes(struct terminal *t)
{
	struct termios state;

	cr_assert_eq(tcgetattr(t->master, &state), 0);
	return (state.c_lflag & ECHO) != 0;
}

static int end_of(struct terminal *t)
{
	int status;

	cr_assert_eq(waitpid(t->child, &status, 0), t->child);
	close(t->master);
	return status;
}

Test(passwd, asks_twice_without_echo)
{
	struct terminal t;
	int status;

	start_on_terminal(&t);
	await_shown(&t, "New password for alice: ");
	cr_expect_not(echoes(&t));
	type(&t, "geheim\n");
	await_shown(&t, "The same again: ");
	type(&t, "geheim\n");
	await_shown(&t, "alice added");
	cr_expect(echoes(&t));
	cr_expect_null(strstr(t.shown, "geheim"));
	status = end_of(&t);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	cr_expect(logs_in("alice", "geheim", HASH_YESCRYPT));
}

Test(passwd, two_different_answers)
{
	struct terminal t;
	int status;

	start_on_terminal(&t);
	await_shown(&t, "New password for alice: ");
	type(&t, "geheim\n");
	await_shown(&t, "The same again: ");
	type(&t, "gehein\n");
	await_shown(&t, "not the same");
	status = end_of(&t);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	cr_expect_eq(access(path, F_OK), -1);
}

Test(passwd, an_interrupt_gives_the_echo_back)
{
	struct terminal t;
	int status;

	start_on_terminal(&t);
	await_shown(&t, "New password for alice: ");
	cr_expect_not(echoes(&t));
	type(&t, "gehe\003"); /* ^C */
	cr_assert_eq(waitpid(t.child, &status, 0), t.child);
	cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
	cr_expect(echoes(&t));
	close(t.master);
	cr_expect_eq(access(path, F_OK), -1);
}

Test(passwd, without_a_terminal)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		setsid(); /* leaves the terminal, if there is one */
		_exit(RUN("pw\n", path, ARG("alice")));
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	cr_expect_not_null(strstr(said(), "--stdin"));
}
