/* adit passwd: create, change and delete users of an htpasswd file.
 *
 * The password comes from the terminal (twice, unseen) or as one line from standard input; never from an argument,
 * which every user of the machine could read. What a login could not use, or a hash would silently cut, is refused here
 * with the reason. */
#include "cli/cli_priv.h"

#include "adit/auth/users.h"
#include "adit/base/mem.h"
#include "cli/passwd_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };
/* bcrypt looks at no more; libcrypt takes no more */
enum { BCRYPT_MAX_BYTES = 72, PASSWORD_MAX_BYTES = 511 };

static const char usage[] =
	"Usage: adit passwd [OPTION]... FILE USER\n"
	"Create or change USER in the htpasswd file FILE, which is made (mode 0600) when it is not there.\n"
	"\n"
	"  --stdin       read the password as one line from standard input; otherwise it is\n"
	"                asked for twice on the terminal\n"
	"  --delete      remove USER\n"
	"  --hash KIND   yescrypt (default), bcrypt or sha512; Apache's httpd reads the last two\n"
	"                everywhere, the first where its libcrypt has it\n"
	"  --help        show this\n"
	"\n"
	"The file is replaced as a whole, keeps its owner, mode and other lines, and a running adit takes\n"
	"it up by itself. Exit status: 0 done, 1 failed (the file is as before), 2 wrong usage.\n";

struct request {
	const char *path, *user;
	enum hash_kind kind;
	bool from_stdin, delete;
};

/* --- reading a password ---------------------------------------------------------------------------------------- */

/* Byte by byte: what follows the line is not ours. `waiting`: the signals of this mask are let through while it waits
 * and at no other moment, so that none comes between a look at them and the wait; NULL: as they are. */
static bool read_line(int fd, const sigset_t *waiting, char line[static PASSWD_LINE_MAX + 1], size_t *n,
	struct passwd_error *error)
{
	*n = 0;
	for (;;) {
		struct pollfd ready = { .fd = fd, .events = POLLIN };
		char c = 0;
		ssize_t got = waiting && ppoll(&ready, 1, NULL, waiting) < 0 ? -1 : read(fd, &c, 1);

		if (got < 0) {
			passwd_error_set(error, "the password can not be read: %s", strerrordesc_np(errno));
			return false;
		}
		if (got == 0 || c == '\n')
			break;
		if (*n == PASSWD_LINE_MAX) {
			passwd_error_set(error, "the password is longer than %d bytes", PASSWORD_MAX_BYTES);
			return false;
		}
		line[(*n)++] = c;
	}
	line[*n] = '\0';
	return true;
}

bool passwd_read_stdin(char line[static PASSWD_LINE_MAX + 1], size_t *n, struct passwd_error *error)
{
	if (!read_line(STDIN_FILENO, NULL, line, n, error))
		return false;
	if (*n > 0 && line[*n - 1] == '\r') /* a file from Windows; no password may end so */
		line[--*n] = '\0';
	return true;
}

static volatile sig_atomic_t interrupted_by;

static void on_signal(int number)
{
	interrupted_by = number;
}

static const int prompt_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
enum { PROMPT_SIGNALS = sizeof(prompt_signals) / sizeof(prompt_signals[0]) };

static void say(int tty, const char *a, const char *b, const char *c)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "%s%s%s", a, b, c);

	if (n > 0 && write(tty, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1) < 0)
		return; /* the read that follows will fail as well, and that one is reported */
}

static bool ask_twice(int tty, const sigset_t *waiting, const char *user, char line[static PASSWD_LINE_MAX + 1],
	size_t *n, struct passwd_error *error)
{
	char again[PASSWD_LINE_MAX + 1];
	size_t again_n = 0;
	bool ok;

	say(tty, "New password for ", user, ": ");
	ok = read_line(tty, waiting, line, n, error);
	say(tty, "\n", "", "");
	if (!ok)
		return false;
	say(tty, "The same again: ", "", "");
	ok = read_line(tty, waiting, again, &again_n, error);
	say(tty, "\n", "", "");
	if (ok && (again_n != *n || memcmp(again, line, *n) != 0)) {
		passwd_error_set(error, "the two passwords are not the same");
		ok = false;
	}
	mem_burn(again, sizeof(again));
	return ok;
}

bool passwd_prompt(const char *user, char line[static PASSWD_LINE_MAX + 1], size_t *n, struct passwd_error *error)
{
	/* Without SA_RESTART: the read ends, the terminal gets its echo back, and only then the signal takes effect. */
	struct sigaction action = { .sa_handler = on_signal }, before[PROMPT_SIGNALS];
	struct termios old, silent;
	sigset_t mine, mask, waiting;
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	bool ok = false;

	if (tty < 0 || tcgetattr(tty, &old) != 0) {
		passwd_error_set(error, "there is no terminal to ask on; use --stdin");
		goto out;
	}
	interrupted_by = 0;
	sigemptyset(&action.sa_mask);
	sigemptyset(&mine);
	for (size_t i = 0; i < PROMPT_SIGNALS; i++)
		sigaddset(&mine, prompt_signals[i]);
	sigprocmask(SIG_BLOCK, &mine, &mask);
	waiting = mask;
	for (size_t i = 0; i < PROMPT_SIGNALS; i++) {
		sigdelset(&waiting, prompt_signals[i]);
		sigaction(prompt_signals[i], &action, &before[i]);
	}
	silent = old;
	silent.c_lflag &= (tcflag_t) ~(ECHO | ECHOE | ECHOK | ECHONL);
	silent.c_lflag |= ICANON | ISIG;
	if (tcsetattr(tty, TCSAFLUSH, &silent) == 0) {
		ok = ask_twice(tty, &waiting, user, line, n, error);
		(void)tcsetattr(tty, TCSAFLUSH, &old);
	} else {
		passwd_error_set(error, "the terminal's echo can not be turned off: %s", strerrordesc_np(errno));
	}
	for (size_t i = 0; i < PROMPT_SIGNALS; i++)
		sigaction(prompt_signals[i], &before[i], NULL);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (interrupted_by) {
		mem_burn(line, PASSWD_LINE_MAX + 1);
		ok = false;
		raise(interrupted_by);
	}
out:
	if (tty >= 0)
		close(tty);
	return ok;
}

/* --- what is asked for ----------------------------------------------------------------------------------------- */

static int complain(const char *fmt, ...) ADIT_PRINTF(1, 2);
static int complain(const char *fmt, ...)
{
	va_list ap;

	fputs("adit passwd: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs("\n", stderr);
	return EXIT_USAGE;
}

static bool kind_from(const char *name, enum hash_kind *kind)
{
	static const enum hash_kind offered[] = { HASH_YESCRYPT, HASH_BCRYPT, HASH_SHA512 };

	for (size_t i = 0; i < sizeof(offered) / sizeof(offered[0]); i++) {
		if (strcmp(name, hash_kind_name(offered[i])) == 0) {
			*kind = offered[i];
			return true;
		}
	}
	return false;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct request *r)
{
	enum { OPT_STDIN = 256, OPT_DELETE, OPT_HASH, OPT_HELP };
	static const struct option options[] = {
		{ "stdin", no_argument, NULL, OPT_STDIN }, { "delete", no_argument, NULL, OPT_DELETE },
		{ "hash", required_argument, NULL, OPT_HASH }, { "help", no_argument, NULL, OPT_HELP }, { 0 }
	};
	int option;

	*r = (struct request){ .kind = HASH_YESCRYPT };
	opterr = 0;
	optind = 0; /* from the start, whoever has used getopt before */
	while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (option) {
		case OPT_STDIN:
			r->from_stdin = true;
			break;
		case OPT_DELETE:
			r->delete = true;
			break;
		case OPT_HASH:
			if (!kind_from(optarg, &r->kind))
				return complain("--hash %s: there are yescrypt, bcrypt and sha512", optarg);
			break;
		case OPT_HELP:
		case 'h':
			fputs(usage, stdout);
			return EXIT_DONE;
		case ':':
			return complain("%s needs a value; see adit passwd --help", argv[optind - 1]);
		default:
			return complain("%s is no option; see adit passwd --help", argv[optind - 1]);
		}
	}
	if (argc - optind != 2) {
		fputs(usage, stderr);
		return EXIT_USAGE;
	}
	if (r->delete && r->from_stdin)
		return complain("--delete takes no password: leave out --stdin");
	r->path = argv[optind];
	r->user = argv[optind + 1];
	return -1;
}

static const char *password_fault(const char *password, size_t n, enum hash_kind kind)
{
	if (n == 0)
		return "the password is empty";
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)password[i] < 0x20 || password[i] == 0x7f)
			return "the password has a control character, which no login can carry (RFC 7617)";
	if (n > PASSWORD_MAX_BYTES)
		return "the password is longer than 511 bytes";
	if (kind == HASH_BCRYPT && n > BCRYPT_MAX_BYTES)
		return "the password is longer than 72 bytes, and bcrypt would cut it; take a shorter one or --hash yescrypt";
	return NULL;
}

static bool hash_of_password(const struct request *r, char hash[static 512], struct passwd_error *error)
{
	char password[PASSWD_LINE_MAX + 1];
	size_t n = 0;
	bool ok = r->from_stdin ? passwd_read_stdin(password, &n, error) : passwd_prompt(r->user, password, &n, error);
	const char *fault = ok ? password_fault(password, n, r->kind) : NULL;

	if (fault) {
		passwd_error_set(error, "%s", fault);
		ok = false;
	} else if (ok && !hash_make(r->kind, password, hash)) {
		passwd_error_set(error, "this system's libcrypt can not make %s hashes: %s", hash_kind_name(r->kind),
			strerrordesc_np(errno));
		ok = false;
	}
	mem_burn(password, sizeof(password));
	return ok;
}

int passwd_main(int argc, char **argv)
{
	static const char *const said[] = {
		[PASSWD_ADDED] = "added to", [PASSWD_REPLACED] = "changed in", [PASSWD_DELETED] = "deleted from"
	};
	struct passwd_error error = { .text = "" };
	enum passwd_change change;
	struct request r;
	char hash[512] = "";
	const char *fault;
	int status = parse(argc, argv, &r);

	if (status >= 0)
		return status;
	fault = users_name_fault(slice_of(r.user));
	if (fault)
		return complain("%s", fault);
	if (!r.delete && !hash_of_password(&r, hash, &error)) {
		(void)complain("%s", error.text);
		return EXIT_FAILED;
	}
	change = passwd_file_change(r.path, slice_of(r.user), r.delete ? NULL : hash, &error);
	mem_burn(hash, sizeof(hash));
	if (change == PASSWD_FAILED) {
		(void)complain("%s: %s", r.path, error.text);
		return EXIT_FAILED;
	}
	fprintf(stderr, "adit passwd: user %s %s %s\n", r.user, said[change], r.path);
	return EXIT_DONE;
}
