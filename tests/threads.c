/* Runs a program's Criterion tests without Criterion's runner, which cannot start under ThreadSanitizer: each in a child of
 * its own, one after the other, and what a child says goes to stderr. Linked in the place of libcriterion. */
#include <criterion/criterion.h>
#include <criterion/options.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak)), *__stop_cr_sts[] __attribute__((weak));

enum { TEST_S = 300 };

static const struct criterion_test_extra_data *suite;
static bool failed;

/* --- what the macros of criterion.h use --- */

struct criterion_options criterion_options;

int cr_asprintf(char **to, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vasprintf(to, fmt, args);
	va_end(args);
	return n;
}

void cr_asprintf_free(char *text)
{
	free(text);
}

char *cr_translate_assert_msg(int message, ...)
{
	char *text;

	return cr_asprintf(&text, "assertion of kind %d", message) < 0 ? NULL : text;
}

void cri_asserts_passed_incr(void) {}
void criterion_continue_test(void) {}

void criterion_abort_test(void)
{
	exit(1);
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
	failed = true;
	fprintf(stderr, "%s:%u: %s\n", stats->file, stats->line, stats->message);
}

void criterion_internal_test_setup(void)
{
	if (suite && suite->init)
		suite->init();
}

void criterion_internal_test_main(void (*test)(void))
{
	test();
}

void criterion_internal_test_teardown(void)
{
	if (suite && suite->fini)
		suite->fini();
}

/* --- the runner --- */

static bool run(const struct criterion_test *test)
{
	int status = 0, wanted = test->data->signal;
	pid_t child = fork();

	if (child == 0) {
		for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++)
			if (strcmp((*s)->name, test->category) == 0)
				suite = (*s)->data;
		alarm(TEST_S);
		test->test();
		exit(failed); /* where ThreadSanitizer puts its own status */
	}
	if (child < 0 || waitpid(child, &status, 0) != child || (WIFSIGNALED(status) ? WTERMSIG(status) : status) != wanted) {
		fprintf(stderr, "FAIL %s::%s: status %#x\n", test->category, test->name, (unsigned)status);
		return false;
	}
	return true;
}

int main(void)
{
	size_t all = 0, passed = 0;

	for (struct criterion_test **test = __start_cr_tst; test < __stop_cr_tst; test++, all++)
		passed += run(*test);
	printf("%zu of %zu tests passed\n", passed, all);
	return passed != all;
}
