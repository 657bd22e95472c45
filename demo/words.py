# ruff: noqa: RUF001 - titles in Russian and Chinese are what this file is for
"""The words that the catalogue's titles are made of: (English, Russian, Chinese)."""

from __future__ import annotations

from typing import Final

Words = tuple[str, str, str]

# A root category, its subcategories, and the goods that each of them holds.
DEPARTMENTS: Final[tuple[tuple[Words, tuple[tuple[Words, tuple[Words, ...]], ...]], ...]] = (
    (
        ("Electronics", "Электроника", "电子产品"),
        (
            (
                ("Phones", "Телефоны", "手机"),
                (("phone", "телефон", "手机"), ("smartphone", "смартфон", "智能手机")),
            ),
            (
                ("Phone cases", "Чехлы для телефонов", "手机壳"),
                (
                    ("phone case", "чехол для телефона", "手机壳"),
                    ("screen protector", "защитное стекло", "钢化膜"),
                ),
            ),
            (
                ("Headphones", "Наушники", "耳机"),
                (("headphones", "наушники", "耳机"), ("headset", "гарнитура", "头戴式耳机")),
            ),
            (
                ("Chargers", "Зарядные устройства", "充电器"),
                (("charger", "зарядное устройство", "充电器"), ("cable", "кабель", "数据线")),
            ),
        ),
    ),
    (
        ("Women's clothing", "Женская одежда", "女装"),
        (
            (
                ("Dresses", "Платья", "连衣裙"),
                (("dress", "платье", "连衣裙"), ("sundress", "сарафан", "吊带裙")),
            ),
            (("Blouses", "Блузки", "衬衫"), (("blouse", "блузка", "衬衫"), ("top", "топ", "上衣"))),
            (("Coats", "Пальто", "大衣"), (("coat", "пальто", "大衣"), ("down jacket", "пуховик", "羽绒服"))),
        ),
    ),
    (
        ("Men's clothing", "Мужская одежда", "男装"),
        (
            (("T-shirts", "Футболки", "T恤"), (("T-shirt", "футболка", "T恤"), ("polo", "поло", "polo衫"))),
            (("Jeans", "Джинсы", "牛仔裤"), (("jeans", "джинсы", "牛仔裤"), ("trousers", "брюки", "裤子"))),
            (
                ("Jackets", "Куртки", "夹克"),
                (("jacket", "куртка", "夹克"), ("windbreaker", "ветровка", "风衣")),
            ),
        ),
    ),
    (
        ("Shoes", "Обувь", "鞋"),
        (
            (
                ("Sneakers", "Кроссовки", "运动鞋"),
                (("sneakers", "кроссовки", "运动鞋"), ("slip-ons", "слипоны", "一脚蹬")),
            ),
            (("Boots", "Ботинки", "靴子"), (("boots", "ботинки", "靴子"), ("felt boots", "валенки", "毡靴"))),
        ),
    ),
    (
        ("Home", "Дом", "家居"),
        (
            (("Tableware", "Посуда", "餐具"), (("teapot", "чайник", "茶壶"), ("cup", "кружка", "杯子"))),
            (
                ("Textiles", "Текстиль", "家纺"),
                (("blanket", "плед", "毯子"), ("bed linen", "постельное бельё", "床上用品")),
            ),
            (
                ("Lamps", "Светильники", "灯具"),
                (("table lamp", "настольная лампа", "台灯"), ("lantern", "фонарь", "灯笼")),
            ),
        ),
    ),
    (
        ("Toys", "Игрушки", "玩具"),
        (
            (
                ("Soft toys", "Мягкие игрушки", "毛绒玩具"),
                (("teddy bear", "плюшевый медведь", "泰迪熊"), ("doll", "кукла", "娃娃")),
            ),
            (
                ("Construction sets", "Конструкторы", "积木"),
                (("building blocks", "конструктор", "积木"), ("puzzle", "пазл", "拼图")),
            ),
        ),
    ),
    (
        ("Sports", "Спорт", "运动"),
        (
            (
                ("Cycling", "Велоспорт", "骑行"),
                (("bicycle light", "велофонарь", "自行车灯"), ("helmet", "шлем", "头盔")),
            ),
            (
                ("Fitness", "Фитнес", "健身"),
                (("yoga mat", "коврик для йоги", "瑜伽垫"), ("dumbbell", "гантель", "哑铃")),
            ),
        ),
    ),
    (
        ("Car accessories", "Автотовары", "汽车用品"),
        (
            (
                ("Interior", "Салон", "内饰"),
                (
                    ("seat cover", "чехол на сиденье", "座套"),
                    ("phone holder", "держатель для телефона", "手机支架"),
                ),
            ),
            (
                ("Tools", "Инструменты", "工具"),
                (("air pump", "насос", "打气泵"), ("jump starter", "пусковое устройство", "启动电源")),
            ),
        ),
    ),
)

QUALITIES: Final[tuple[Words, ...]] = (
    ("new", "новинка", "新款"),
    ("light", "лёгкий вариант", "轻便"),
    ("classic", "классика", "经典"),
    ("premium", "премиум", "高端"),
    ("for travel", "для путешествий", "旅行"),
    ("for children", "для детей", "儿童"),
    ("for winter", "для зимы", "冬季"),
    ("for summer", "для лета", "夏季"),
    ("wholesale", "оптом", "批发"),
    ("gift set", "подарочный набор", "礼盒"),
    ('"Spring & Co"', "«Весна и Ко»", "春天"),
)

COLOURS: Final[tuple[Words, ...]] = (
    ("black", "чёрный", "黑色"),
    ("white", "белый", "白色"),
    ("red", "красный", "红色"),
    ("blue", "синий", "蓝色"),
    ("green", "зелёный", "绿色"),
    ("beige", "бежевый", "米色"),
    ("grey", "серый", "灰色"),
)

VENDORS: Final[tuple[str, ...]] = (
    "Dragon Trade",
    "Silk Road Store",
    "Pearl River Goods",
    "Jade Factory",
    "Panda Mall",
    "Yiwu Wholesale",
    "Guangzhou Fashion",
    "Shenzhen Digital",
    "Hangzhou Home",
    "Lotus Workshop",
)
