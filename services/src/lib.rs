//! Private servers for the tests: Redis in all its forms, PostgreSQL, MariaDB, PgBouncer.
