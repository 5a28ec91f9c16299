"""What the bureau of the demo city shows everybody: a catalogue, sites with power, results that became products."""

from __future__ import annotations

import datetime as dt

from compute_portal import clock
from compute_portal.access import Role
from compute_portal.commons import service
from compute_portal.commons.service import DatasetText, NewTransition, SiteStage
from compute_portal.commons.states import SiteState, Tier
from compute_portal.language import N_
from compute_portal.policy import Policy

from .town import Town

SOURCE = N_("the maker’s data sheet, without sparsity")
DATASETS = (
    DatasetText(
        "市域遥感影像（2022–2026）", "Remote sensing of the city, 2022–2026", "市规划和自然资源局", "Planning bureau",
        Tier.CONDITIONAL, "向市规划和自然资源局提交用途说明，签数据使用协议后开通。",
        "Tell the planning bureau what it is for and sign the data use agreement.",
    ),
    DatasetText(
        "公交到站与客流（脱敏）", "Bus arrivals and passengers, anonymised", "市交通运输局", "Transport bureau",
        Tier.OPEN, "市公共数据开放平台直接下载。", "Download it from the city’s open data site.",
    ),
    DatasetText(
        "方言语音语料（1,200 小时）", "Dialect speech, 1,200 hours", "市语言资源中心", "Centre for language resources",
        Tier.CONDITIONAL, "每季度受理一次，先做个人信息保护影响评估。",
        "Requests are taken once a quarter; assess the impact on personal information first.",
    ),
    DatasetText(
        "短临气象雷达基数据", "Weather radar base data", "市气象局", "Weather bureau", Tier.OPEN,
        "注册后用接口获取，不限次数。", "Register and fetch it by the interface, as often as you like.",
    ),
    DatasetText(
        "住院病案首页", "Hospital discharge records", "市卫生健康委员会", "Health commission", Tier.NOT_OPEN,
        "不对外提供；可申请在受控环境内验证模型。", "Not given out; a model may be tested in a controlled room.",
    ),
)  # fmt: skip
SITES = (
    ("东港智算中心二期", "Donggang centre, phase 2", SiteState.COMMITTED, 54_000, 60, "供电方案答复单〔2026〕318 号"),
    ("北屿园区", "Beiyu campus", SiteState.COMMITTED, 32_000, 25, "用电协议 2026-0417"),
    ("云湖数据中心", "Yunhu data centre", SiteState.BUILDING, 42_000, 90, "施工许可证 2026-11-0032"),
    ("东港智算中心一期", "Donggang centre, phase 1", SiteState.ENERGISED, 31_000, 200, "送电通知单 2026-0088"),
    ("南岭备选地块", "Nanling site", SiteState.ANNOUNCED, 80_000, 15, "市政府专题会议纪要〔2026〕12 号"),
)
PRODUCTS = (
    (
        "yusheng",
        "H800",
        9,
        "方言语音客服上线，接入 12345 热线",
        "Dialect speech service, in use on the city’s 12345 line",
    ),
    ("hexin", "910B", 6, "病虫害识别进入全市植保站", "Pest recognition in all plant protection stations"),
    ("beiyu", "H800", 3, "蛋白设计软件首个付费客户", "First paying customer of protein design software"),
)


def fill(town: Town, policy: Policy, now: dt.datetime) -> None:
    by, today = town.bureau[Role.OPERATOR], clock.day_of(now)
    for text in DATASETS:
        town.transact(lambda s, text=text: service.list_dataset(s, text, by=by, now=now).id)  # type: ignore[misc]
    for name, name_en, state, kilowatts, ago, evidence in SITES:
        stage = SiteStage(state, kilowatts, today - dt.timedelta(days=ago), evidence, None)
        town.transact(
            lambda s, name=name, name_en=name_en, stage=stage: (  # type: ignore[misc]
                service.enter_site(s, name, name_en, stage, by=by, now=now).id
            )
        )
    for key, pool, ago, name, name_en in PRODUCTS:
        if (id := town.allocations.get((key, pool))) is not None:
            asked = NewTransition(id, today - dt.timedelta(days=ago), name, name_en, "企业成果报告，经专家组核对", None)
            town.transact(
                lambda s, asked=asked: (  # type: ignore[misc]
                    service.record_transition(s, asked, policy=policy.commons, by=by, now=now).id
                )
            )
