"""The public test kit: what a program that uses or extends this package needs to test itself."""
