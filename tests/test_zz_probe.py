import datetime as dt, sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from compute_portal.signin.models import FormKey
def test_x(cast):
    with Session(cast.database.engine) as session:
      for i, which in enumerate((FormKey, FormKey.__table__)):
        ins = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        v=dict(key=str(i)*64, user_id=cast.users["chen"], result="", at=dt.datetime.now(dt.UTC))
        r = session.execute(ins(which).values(**v).on_conflict_do_nothing())
        print(which, type(r), r.rowcount)
        r = session.execute(ins(which).values(**v).on_conflict_do_nothing().returning(FormKey.key))
        print(which, type(r), r.all())
    assert 0
