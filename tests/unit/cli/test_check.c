/* adit check: exit status and what is said, over files made for each test. */
#include "cli/cli_priv.h"

#include "unit/tls/pki.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DAY_S = 24 * 3600, SAID_MAX = 16384 };

/* {SHA} of "x": no library has to be asked for it. */
#define SHA_LINE "alice:{SHA}EfatjsUqKYSrpgHpPw1eH3Dd7Fg=\n"

static char chain[PKI_PATH_SIZE], key[PKI_PATH_SIZE], users[PKI_PATH_SIZE], audit[PKI_PATH_SIZE], config[PKI_PATH_SIZE];
static char out[SAID_MAX], err[SAID_MAX];

static void setup(void)
{
	pki_setup();
	pki_path(chain, "proxy.crt");
	pki_path(key, "proxy.key");
	pki_path(users, "users");
	pki_path(audit, "audit");
	pki_path(config, "adit.yaml");
	pki_make("proxy", "P-256", "DNS:localhost");
	cr_assert_eq(chmod(key, 0600), 0);
	pki_write("users", SHA_LINE, strlen(SHA_LINE));
	cr_assert_eq(chmod(users, 0600), 0);
	cr_assert_eq(mkdir(audit, 0750), 0);
}

static void teardown(void)
{
	chmod(audit, 0750);
	rmdir(audit);
	pki_teardown();
}

static void slurp(const char *path, char to[static SAID_MAX])
{
	FILE *f = fopen(path, "r");
	size_t n;

	cr_assert_not_null(f);
	n = fread(to, 1, SAID_MAX - 1, f);
	to[n] = '\0';
	fclose(f);
}

/* Runs check_main in a child of its own, with its two streams in files. */
static int run(const char *const *arguments)
{
	char *argv[16] = { (char *)(uintptr_t)"check" }, out_path[PKI_PATH_SIZE], err_path[PKI_PATH_SIZE];
	int argc = 1, status;
	pid_t child;

	for (; arguments[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)arguments[argc - 1];
	pki_path(out_path, "out");
	pki_path(err_path, "err");
	fflush(NULL);
	child = fork();
	if (child == 0) {
		if (!freopen(out_path, "w", stdout) || !freopen(err_path, "w", stderr))
			_exit(99);
		status = check_main(argc, argv);
		fflush(NULL);
		_exit(status);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
	slurp(out_path, out);
	slurp(err_path, err);
	unlink(out_path);
	unlink(err_path);
	return WEXITSTATUS(status);
}

static int run_good(const char *option, const char *value)
{
	return run((const char *[]){ "--cert", chain, "--key", key, "--htpasswd", users, "--audit-dir", audit, option, value, NULL });
}

#define SAID(text) cr_assert_not_null(strstr(err, text), "%s", err)
#define NOT_SAID(text) cr_assert_null(strstr(err, text), "%s", err)

TestSuite(check, .init = setup, .fini = teardown);

Test(check, good)
{
	cr_assert_eq(run_good(NULL, NULL), 0, "%s", err);
	cr_assert_str_eq(err, "");
	cr_assert_not_null(strstr(out, "auth:\n  htpasswd: "));
	cr_assert_eq(run_good("--quiet", NULL), 0);
	cr_assert_str_eq(out, "");
}

Test(check, what_is_printed_is_a_configuration)
{
	static char first[SAID_MAX];

	cr_assert_eq(run_good(NULL, NULL), 0, "%s", err);
	memcpy(first, out, sizeof(first));
	pki_write("adit.yaml", first, strlen(first));
	cr_assert_eq(run((const char *[]){ "-c", config, NULL }), 0, "%s", err);
	cr_assert_str_eq(out, first);
}

Test(check, nothing_is_given)
{
	cr_assert_eq(run((const char *[]){ "--audit-dir", audit, NULL }), 2);
	cr_assert_str_eq(out, "");
	SAID("tls.certificates: is missing");
	SAID("auth.htpasswd: is missing");
	SAID("adit check: 2 errors, 0 warnings\n");
}

Test(check, bad_configuration)
{
	static const char text[] = "workers: 0\nlisten: x\n";

	pki_write("adit.yaml", text, strlen(text));
	cr_assert_eq(run((const char *[]){ "-c", config, NULL }), 2);
	SAID("adit.yaml:1:10: workers: ");
	SAID("adit.yaml:2:9: listen: ");
	SAID("adit check: 2 errors, 0 warnings\n");
	cr_assert_eq(run((const char *[]){ "--frobnicate", NULL }), 2);
	cr_assert_eq(run((const char *[]){ "--help", NULL }), 0);
	cr_assert_not_null(strstr(out, "--audit-dir DIR"));
}

Test(check, files_that_are_not_there)
{
	char other[PKI_PATH_SIZE];

	pki_path(other, "nowhere");
	cr_assert_eq(run((const char *[]){ "--cert", other, "--key", other, "--htpasswd", other, "--audit-dir", other, NULL }), 2);
	SAID("tls.certificates[1]: ");
	SAID("nowhere: the certificate cannot be read");
	SAID("audit.directory: ");
	SAID("No such file or directory; make it");
	cr_assert_eq(run_good("--audit-dir", users), 2);
	SAID("is not a directory");
}

Test(check, windows_that_cannot_grow)
{
	cr_assert_eq(run_good("--set", "http2.window=16MiB"), 0, "%s", err);
	SAID("http2.window: it has no more than 64KiB for each of 256 http2.streams");
	SAID("0 errors, 1 warning\n");
	cr_assert_eq(run_good("--set", "http2.streams=384"), 0, "%s", err);
	SAID("for each of 384 http2.streams");
	cr_assert_eq(run_good("--set", "http2.streams=383"), 0, "%s", err);
	cr_assert_str_eq(err, "");
}

Test(check, certificates)
{
	EVP_PKEY *fresh = pki_key("P-256");
	struct pki_cert old = { .alt = "DNS:localhost", .from_s = -2 * DAY_S, .until_s = -DAY_S };
	struct pki_cert soon = { .alt = "DNS:localhost", .from_s = -DAY_S, .until_s = 5 * DAY_S };
	X509 *cert;
	char path[PKI_PATH_SIZE];

	cert = pki_sign(fresh, &old);
	pki_write_pair("old", cert, NULL, fresh);
	X509_free(cert);
	cert = pki_sign(fresh, &soon);
	pki_write_pair("soon", cert, NULL, fresh);
	X509_free(cert);
	EVP_PKEY_free(fresh);
	cr_assert_eq(chmod(pki_path(path, "old.key"), 0600), 0);
	cr_assert_eq(chmod(pki_path(path, "soon.key"), 0600), 0);

	cr_assert_eq(run((const char *[]){ "--cert", pki_path(chain, "old.crt"), "--key", pki_path(key, "old.key"), "--htpasswd",
		users, "--audit-dir", audit, NULL }), 2);
	SAID("expired");
	SAID("adit check: 1 error, 1 warning\n");
	cr_assert_eq(run((const char *[]){ "--cert", pki_path(chain, "soon.crt"), "--key", pki_path(key, "soon.key"), "--htpasswd",
		users, "--audit-dir", audit, NULL }), 0, "%s", err);
	SAID("warning: ");
	SAID("expires");
	SAID("adit check: 0 errors, 1 warning\n");
	/* the key of another certificate */
	cr_assert_eq(run((const char *[]){ "--cert", pki_path(chain, "soon.crt"), "--key", pki_path(key, "proxy.key"), "--htpasswd",
		users, "--audit-dir", audit, NULL }), 2);
	SAID("does not belong");
}

Test(check, users)
{
	/* bcrypt of cost 4 and md5crypt: mixed, both quick */
	static const char mixed[] = SHA_LINE "bob:$1$abcdefgh$irWbblnpmw.5z7wgBnprh0\n";
	static const char broken[] = "alice\nbob:plain\n";

	pki_write("users", mixed, strlen(mixed));
	cr_assert_eq(run_good(NULL, NULL), 0, "%s", err);
	SAID("hashes of several kinds (1 ");
	pki_write("users", broken, strlen(broken));
	cr_assert_eq(run_good(NULL, NULL), 2);
	SAID("/users:1: ");
	SAID("/users:2: ");
	NOT_SAID("plain-");
	pki_write("users", "", 0);
	cr_assert_eq(run_good(NULL, NULL), 0);
	SAID("it has no user");
	pki_write("users", SHA_LINE, strlen(SHA_LINE));
	cr_assert_eq(chmod(users, 0644), 0);
	cr_assert_eq(run_good(NULL, NULL), 0);
	SAID("readable for everybody");
}

/* SHA-512 with very many rounds takes long on every machine. */
Test(check, slow_hashes)
{
	static const char slow[] = "alice:$6$rounds=4000000$abcdefgh$"
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n";

	pki_write("users", slow, strlen(slow));
	cr_assert_eq(run_good(NULL, NULL), 0, "%s", err);
	SAID("/users:1: checking this password takes ");
	SAID("4000000; 1 such lines)");
}

Test(check, accounts)
{
	cr_assert_eq(run_good("--user", "no-such-account"), 2);
	SAID("user: there is no account no-such-account");
	if (geteuid() != 0)
		return;
	/* the folder of the test is root's alone */
	cr_assert_eq(run_good("--user", "nobody"), 2);
	SAID("auth.htpasswd: ");
	SAID("nobody cannot read it: Permission denied");
	SAID("nobody cannot write to it: Permission denied");
	SAID("tls.certificates: key: ");
	cr_assert_eq(run_good("--user", "root"), 0, "%s", err);
}
