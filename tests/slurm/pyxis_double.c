/*
 * A test double of NVIDIA's pyxis, for clusters that exist only in a test: a SPANK plugin, so that the real srun
 * parses pyxis' options and the real slurmstepd starts the task in a root file system of its own.
 *
 * Honoured:  --container-image (a .sqsh, unpacked by unsquashfs; for tests also a folder), --container-mounts with the
 *            flags ro and rw, --container-workdir, --container-env, --container-readonly; a missing image or mount
 *            source ends the task; the host's file system is out of sight; what the image's /etc/environment sets goes
 *            before the job's value, but for the names in --container-env; the image itself is never written to.
 * Ignored:   --container-name, --container-save, --[no-]container-mount-home (no home is ever mounted),
 *            --[no-]container-remap-root, --[no-]container-entrypoint, --container-entrypoint-log.
 * Not there: registries, enroot and its hooks, user namespaces, GPUs. What it accepts says nothing about those.
 *
 * Build:     gcc -Wall -Wextra -Werror -shared -fPIC -o pyxis_double.so pyxis_double.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(pyxis_double, 1);

/* A tmpfs in the task's own mount namespace lies here; all tasks can share the name. */
#define BASE "/run/pyxis-double"
#define ROOT BASE "/root"

enum { IGNORED, IMAGE, MOUNTS, WORKDIR, ENV, READONLY, OPTIONS };
/* A hook that fails has to return less than nothing: ESPANK_ERROR is more, and the task would go on. */
static char *given[OPTIONS];

static int set_option(int which, const char *value, int remote)
{
	(void)remote;
	if (which == IGNORED)
		return ESPANK_SUCCESS;
	if (which != READONLY && (!value || !*value)) {
		slurm_error("pyxis: argument required");
		return -1;
	}
	free(given[which]);
	given[which] = strdup(value ? value : "");
	return given[which] ? ESPANK_SUCCESS : -1;
}

static struct spank_option options[] = {
	{ "container-image", "IMAGE", "[pyxis double] a .sqsh or a folder", 1, IMAGE, set_option },
	{ "container-mounts", "SRC:DST[:FLAGS],...", "[pyxis double] bind mounts", 1, MOUNTS, set_option },
	{ "container-workdir", "PATH", "[pyxis double] working folder inside", 1, WORKDIR, set_option },
	{ "container-env", "NAME,...", "[pyxis double] names that the image must not set", 1, ENV, set_option },
	{ "container-readonly", NULL, "[pyxis double] read-only root", 0, READONLY, set_option },
	{ "container-writable", NULL, "[pyxis double] always so", 0, IGNORED, set_option },
	{ "container-name", "NAME", "[pyxis double] ignored", 1, IGNORED, set_option },
	{ "container-save", "PATH", "[pyxis double] ignored", 1, IGNORED, set_option },
	{ "container-mount-home", NULL, "[pyxis double] ignored", 0, IGNORED, set_option },
	{ "no-container-mount-home", NULL, "[pyxis double] always so", 0, IGNORED, set_option },
	{ "container-remap-root", NULL, "[pyxis double] ignored", 0, IGNORED, set_option },
	{ "no-container-remap-root", NULL, "[pyxis double] ignored", 0, IGNORED, set_option },
	{ "container-entrypoint", NULL, "[pyxis double] ignored", 0, IGNORED, set_option },
	{ "no-container-entrypoint", NULL, "[pyxis double] ignored", 0, IGNORED, set_option },
	{ "container-entrypoint-log", NULL, "[pyxis double] ignored", 0, IGNORED, set_option },
	SPANK_OPTIONS_TABLE_END
};

int slurm_spank_init(spank_t sp, int argc, char **argv)
{
	(void)argc, (void)argv;
	if (spank_context() == S_CTX_SLURMD)
		return ESPANK_SUCCESS;
	for (struct spank_option *option = options; option->name; option++)
		if (spank_option_register(sp, option) != ESPANK_SUCCESS)
			return -1;
	return ESPANK_SUCCESS;
}

static int fail(const char *what)
{
	slurm_error("pyxis: %s: %s", what, strerror(errno));
	return -1;
}

/* mkdir -p, the last part apart: that one is made as a folder or as an empty file. */
static bool create(const char *path, bool folder)
{
	char part[PATH_MAX];

	if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part)) {
		errno = ENAMETOOLONG;
		return false;
	}
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(part, 0755) && errno != EEXIST)
			return false;
		*slash = '/';
	}
	if (folder)
		return !mkdir(part, 0755) || errno == EEXIST;

	int file = open(part, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	return file >= 0 && !close(file);
}

/* Bind `source`, with what is mounted below it, at `target` inside the new root. */
static bool bind(const char *source, const char *target, bool readonly)
{
	char path[PATH_MAX];
	struct stat status;

	if (stat(source, &status))
		return false;
	if (snprintf(path, sizeof(path), ROOT "%s", target) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return false;
	}
	return create(path, S_ISDIR(status.st_mode)) && !mount(source, path, NULL, MS_BIND | MS_REC, NULL) &&
	       (!readonly || !mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
}

/* --container-mounts, entry by entry. */
static int bind_mounts(char *list)
{
	for (char *next, *entry = strtok_r(list, ",", &next); entry; entry = strtok_r(NULL, ",", &next)) {
		char *rest = entry, *source = strsep(&rest, ":"), *target = strsep(&rest, ":");
		bool readonly = rest && !strcmp(rest, "ro");

		if (!target)
			target = source;
		if (*source != '/' || *target != '/' || (rest && !readonly && strcmp(rest, "rw"))) {
			slurm_error("pyxis: --container-mounts: invalid format or unknown flag: %s:%s:%s", source, target,
				    rest ? rest : "");
			return -1;
		}
		if (!bind(source, target, readonly)) {
			slurm_error("pyxis: couldn't mount %s at %s: %s", source, target, strerror(errno));
			return -1;
		}
	}
	return ESPANK_SUCCESS;
}

static int unpack(char *image, char *target)
{
	char *const command[] = { "unsquashfs", "-quiet", "-no-progress", "-force", "-dest", target, image, NULL };
	pid_t child;
	int status;

	errno = posix_spawnp(&child, command[0], NULL, NULL, command, environ);
	if (errno || waitpid(child, &status, 0) != child)
		return fail("unsquashfs");
	if (status) {
		slurm_error("pyxis: unsquashfs could not unpack %s", image);
		return -1;
	}
	return ESPANK_SUCCESS;
}

/* As root, before the task becomes the user: make the root file system and go into it. */
int slurm_spank_task_init_privileged(spank_t sp, int argc, char **argv)
{
	static const char *const host[] = { "/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf" };
	char overlay[PATH_MAX * 2], *image = given[IMAGE];
	struct stat status;

	(void)sp, (void)argc, (void)argv;
	if (!image)
		return ESPANK_SUCCESS;
	if (stat(image, &status)) {
		slurm_error("pyxis: couldn't find image %s: %s", image, strerror(errno));
		return -1;
	}
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return fail("unshare");
	if (!create(BASE, true) || mount("tmpfs", BASE, "tmpfs", 0, "mode=755") || !create(ROOT, true) ||
	    !create(BASE "/upper", true) || !create(BASE "/work", true) || !create(BASE "/lower", true))
		return fail(BASE);
	if (S_ISDIR(status.st_mode)) {
		if (mount(image, BASE "/lower", NULL, MS_BIND | MS_REC, NULL))
			return fail(image);
	} else if (unpack(image, BASE "/lower")) {
		return -1;
	}
	snprintf(overlay, sizeof(overlay), "lowerdir=%s,upperdir=%s,workdir=%s", BASE "/lower", BASE "/upper", BASE "/work");
	if (mount("overlay", ROOT, "overlay", 0, overlay))
		return fail("overlay");
	for (size_t i = 0; i < sizeof(host) / sizeof(*host); i++)
		if (!bind(host[i], host[i], false) && errno != ENOENT)
			return fail(host[i]);
	if (given[MOUNTS] && bind_mounts(given[MOUNTS]))
		return -1;
	if (given[READONLY] && mount(NULL, ROOT, NULL, MS_REMOUNT | MS_RDONLY, NULL))
		return fail("--container-readonly");
	if (chroot(ROOT) || chdir("/"))
		return fail("chroot");
	return ESPANK_SUCCESS;
}

/* Whether `name` is one of --container-env. */
static bool kept(const char *name)
{
	size_t length = strlen(name);

	for (const char *at = given[ENV]; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (!strncmp(at, name, length) && (at[length] == ',' || !at[length]))
			return true;
	return false;
}

/* As the user, after slurmstepd's own chdir: the image's environment and the working folder. */
int slurm_spank_task_init(spank_t sp, int argc, char **argv)
{
	const char *workdir = given[WORKDIR] ? given[WORKDIR] : "/";
	char line[PATH_MAX];
	FILE *file;

	(void)argc, (void)argv;
	if (!given[IMAGE])
		return ESPANK_SUCCESS;
	file = fopen("/etc/environment", "re");
	while (file && fgets(line, sizeof(line), file)) {
		char *value = strchr(line, '='), old[1];

		line[strcspn(line, "\n")] = '\0';
		if (!value)
			continue;
		*value++ = '\0';
		if (kept(line) && spank_getenv(sp, line, old, sizeof(old)) != ESPANK_ENV_NOEXIST)
			continue;
		if (spank_setenv(sp, line, value, 1) != ESPANK_SUCCESS)
			return fail(line);
	}
	if (file)
		fclose(file);
	if (chdir(workdir))
		return fail(workdir);
	return spank_setenv(sp, "PWD", workdir, 1) == ESPANK_SUCCESS ? ESPANK_SUCCESS : -1;
}
