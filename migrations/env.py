"""Run by Alembic on the connection, and inside the transaction, that `cortexd.store.migrate` has opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
