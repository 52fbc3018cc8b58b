// Package packaging tests what the packages are made of: the unit, the scripts and the environment file in every check,
// and with DIST_TEST=1, as root, the whole life of the deb in a scratch root (`make dist-test`).
package packaging
