/* Privileges and limits of the process. */
#include "server/priv.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

bool priv_drop(const char *user, char *error, size_t error_size)
{
	struct passwd *pw;

	/* whoever we are: nothing we start gains more */
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!user)
		return true;
	errno = 0;
	pw = getpwnam(user);
	if (!pw) {
		snprintf(error, error_size, "user: '%s' is not known on this machine", user);
		return false;
	}
	if (geteuid() == pw->pw_uid && getuid() == pw->pw_uid)
		return true;
	if (geteuid() != 0) {
		snprintf(error, error_size, "user: only root can become '%s'; start as root, or leave `user` out", user);
		return false;
	}
	if (initgroups(user, pw->pw_gid) != 0 || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) != 0 ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) != 0) {
		snprintf(error, error_size, "user: cannot become '%s': %s", user, strerror(errno));
		return false;
	}
	if (pw->pw_uid != 0 && setuid(0) == 0) {
		snprintf(error, error_size, "user: privileges were not given up");
		return false;
	}
	return true;
}

unsigned long priv_raise_files(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return 1024;
	if (files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
		(void)getrlimit(RLIMIT_NOFILE, &files);
	}
	return (unsigned long)files.rlim_cur;
}
